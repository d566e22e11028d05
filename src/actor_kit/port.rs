use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};

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

/// How a port stands: messages waiting, and messages refused so far.
#[derive(Debug, Default)]
pub struct PortStats {
    waiting: AtomicUsize,
    refused: AtomicUsize,
}

impl PortStats {
    /// Messages sent and not yet handled.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Messages refused because the port was full.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A message on its way; counted until it is handled or dropped with its actor.
pub struct Counted<M> {
    message: M,
    stats: Ticket,
}

struct Ticket(Arc<PortStats>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M> Counted<M> {
    /// The message; from here on it counts as handled.
    pub fn open(self) -> M {
        drop(self.stats);
        self.message
    }
}

impl<M: Message> Message for Counted<M> {
    type Result = M::Result;
}

/// The only way to send to an actor: bounded and counted.
///
/// actix's own capacity is no bound (`do_send` and `send` ignore it, and clones of an address have a
/// slot of their own), so the port counts what waits itself.
pub struct Port<A: Actor> {
    address: Addr<A>,
    stats: Arc<PortStats>,
    limit: usize,
}

impl<A: Actor> Clone for Port<A> {
    fn clone(&self) -> Self {
        Port { address: self.address.clone(), stats: self.stats.clone(), limit: self.limit }
    }
}

impl<A: Actor> fmt::Debug for Port<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Port").field("stats", &self.stats).field("limit", &self.limit).finish()
    }
}

impl<A: Actor> Port<A> {
    /// A port that lets at most `limit` messages wait.
    pub fn new(address: Addr<A>, limit: usize) -> Self {
        Port { address, stats: Arc::default(), limit }
    }

    /// How the port stands.
    pub fn stats(&self) -> Arc<PortStats> {
        self.stats.clone()
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
        let before = self.stats.waiting.fetch_add(1, Ordering::Relaxed);
        let stats = Ticket(self.stats.clone());
        if before >= self.limit {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            return Err(PortError::Full);
        }
        Ok(Counted { message, stats })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::Context;

    struct Sum(u64);
    struct Add(u64);
    impl Message for Add {
        type Result = u64;
    }
    impl Actor for Sum {
        type Context = Context<Self>;
    }
    impl Handler<Counted<Add>> for Sum {
        type Result = u64;
        fn handle(&mut self, message: Counted<Add>, _: &mut Self::Context) -> u64 {
            self.0 += message.open().0;
            self.0
        }
    }

    #[actix_rt::test]
    async fn every_clone_of_a_port_shares_one_bound() {
        let port = Port::new(Sum(0).start(), 3);
        let clones: Vec<_> = (0..10).map(|_| port.clone()).collect();
        let taken = clones.iter().filter(|clone| clone.tell(Add(1)).is_ok()).count();
        assert_eq!((taken, port.stats().waiting(), port.stats().refused()), (3, 3, 7));
        tokio::task::yield_now().await;
        assert_eq!(port.ask(Add(1)).await, Ok(4));
        assert_eq!(port.stats().waiting(), 0);
    }
}
