use std::fmt;
use std::sync::Arc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};

use super::{Counted, Mailbox};
use crate::telemetry::MailboxMetrics;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// As many messages wait as the port's limit allows.
    #[error("the actor's mailbox is full")]
    Full,
    /// The actor is gone.
    #[error("the actor has stopped")]
    Closed,
}

/// The only way to send to an actor: bounded and counted.
///
/// actix's own capacity is no bound (`do_send` and `send` ignore it, and clones of an address have a
/// slot of their own), so the port counts what waits itself.
pub struct Port<A: Actor> {
    address: Addr<A>,
    mailbox: Arc<Mailbox>,
}

impl<A: Actor> Clone for Port<A> {
    fn clone(&self) -> Self {
        Port { address: self.address.clone(), mailbox: self.mailbox.clone() }
    }
}

impl<A: Actor> fmt::Debug for Port<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Port").field("mailbox", &self.mailbox).finish()
    }
}

impl<A: Actor> Port<A> {
    /// A port that lets at most `limit` messages wait; `metrics` are those of the actor's kind.
    pub fn new(address: Addr<A>, limit: usize, metrics: Arc<MailboxMetrics>) -> Self {
        Port { address, mailbox: Mailbox::new(limit, metrics) }
    }

    /// Messages sent whose handling has not begun.
    pub fn waiting(&self) -> usize {
        self.mailbox.waiting()
    }

    /// Whether the actor still takes messages.
    pub fn is_open(&self) -> bool {
        self.address.connected()
    }

    /// Sends without waiting for an answer.
    #[expect(clippy::disallowed_methods, reason = "the one sender; it keeps the bound itself")]
    pub fn tell<M>(&self, message: M) -> Result<(), PortError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Counted<M>>,
        A::Context: ToEnvelope<A, Counted<M>>,
    {
        let counted = self.admit(message)?;
        self.address.do_send(counted);
        Ok(())
    }

    /// Sends and waits for the answer.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, PortError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Counted<M>>,
        A::Context: ToEnvelope<A, Counted<M>>,
    {
        let counted = self.admit(message)?;
        self.address.send(counted).await.map_err(|_| PortError::Closed)
    }

    fn admit<M>(&self, message: M) -> Result<Counted<M>, PortError> {
        if !self.address.connected() {
            return Err(PortError::Closed);
        }
        self.mailbox.admit(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor_kit::Handles;
    use crate::telemetry::Metrics;
    use actix::{Context, MessageResult};

    struct Sum(u64);
    struct Add(u64);
    impl Message for Add {
        type Result = u64;
    }
    impl Actor for Sum {
        type Context = Context<Self>;
    }
    impl Handles<Add> for Sum {
        fn handle(&mut self, Add(number): Add, _: &mut Self::Context) -> u64 {
            self.0 += number;
            self.0
        }
    }
    impl<M: Message> Handler<Counted<M>> for Sum
    where
        Sum: Handles<M>,
    {
        type Result = MessageResult<Counted<M>>;
        fn handle(&mut self, message: Counted<M>, context: &mut Self::Context) -> Self::Result {
            message.carry_out(self, context)
        }
    }

    #[actix_rt::test]
    async fn every_clone_of_a_port_shares_one_bound_and_is_counted_and_timed() {
        let metrics = Metrics::default();
        let shown = |series: &str, value: &str| {
            let line = format!("bongsu_{series}{{actor=\"session\"}} {value}\n");
            assert!(metrics.render().contains(&line), "{line}");
        };
        let port = Port::new(Sum(0).start(), 3, metrics.mailboxes("session"));
        let clones: Vec<_> = (0..10).map(|_| port.clone()).collect();
        let taken = clones.iter().filter(|clone| clone.tell(Add(1)).is_ok()).count();
        assert_eq!((taken, port.waiting()), (3, 3));
        shown("mailbox_waiting", "3");
        shown("mailbox_refused_total", "7");
        tokio::task::yield_now().await;
        assert_eq!(port.ask(Add(1)).await, Ok(4));
        assert_eq!(port.waiting(), 0);
        shown("mailbox_waiting", "0");
        shown("actor_handling_seconds_count", "4");
    }

    #[actix_rt::test]
    async fn what_waits_for_an_actor_that_ends_waits_no_longer() {
        let metrics = Metrics::default();
        let mailbox = Mailbox::new(2, metrics.mailboxes("session"));
        let (first, second) = (mailbox.admit(Add(1)), mailbox.admit(Add(2)));
        assert!(mailbox.admit(Add(3)).is_err() && mailbox.waiting() == 2);
        drop((first, second));
        assert_eq!(mailbox.waiting(), 0);
    }
}
