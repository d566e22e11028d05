use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use actix::{Actor, Message, MessageResult};
use tracing::Span;

use super::port::PortError;
use crate::telemetry::MailboxMetrics;

/// What an actor does with a message.
///
/// Actors implement this, and once, for every message, actix's own
/// `impl<M: Message> Handler<Counted<M>> for A where A: Handles<M>`, which is [`Counted::carry_out`].
/// So nothing reaches an actor that is not counted and timed.
pub trait Handles<M: Message>: Actor {
    /// Carries it out.
    fn handle(&mut self, message: M, context: &mut Self::Context) -> M::Result;
}

/// The messages that wait for one actor: bounded, and counted for the metrics of its kind.
#[derive(Debug)]
pub struct Mailbox {
    waiting: AtomicUsize,
    limit: usize,
    metrics: Arc<MailboxMetrics>,
}

impl Mailbox {
    /// Of an actor for which at most `limit` messages may wait.
    pub fn new(limit: usize, metrics: Arc<MailboxMetrics>) -> Arc<Self> {
        Arc::new(Mailbox { waiting: AtomicUsize::new(0), limit, metrics })
    }

    /// Lets a message wait, unless as many do as may.
    pub fn admit<M>(self: &Arc<Self>, message: M) -> Result<Counted<M>, PortError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.refuses();
            return Err(PortError::Full);
        }
        self.metrics.enters();
        let span = tracing::debug_span!("message", actor = self.metrics.actor());
        Ok(Counted { message, ticket: Ticket(Some(self.clone())), span })
    }

    /// Messages sent whose handling has not begun.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What was begun at `started` has been handled; for actors that are tasks with a queue.
    pub fn handled(&self, started: Instant) {
        self.metrics.handled(started.elapsed());
    }
}

/// A message on its way; counted until its handling begins or it is dropped with its actor.
pub struct Counted<M> {
    message: M,
    ticket: Ticket,
    /// Within that of whoever sent it.
    span: Span,
}

struct Ticket(Option<Arc<Mailbox>>);

impl Ticket {
    fn leave(&mut self) -> Option<Arc<Mailbox>> {
        let mailbox = self.0.take()?;
        mailbox.waiting.fetch_sub(1, Ordering::Relaxed);
        mailbox.metrics.leaves();
        Some(mailbox)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<M> Counted<M> {
    /// The message; it waits no longer. For actors that are tasks with a queue.
    pub fn open(self) -> M {
        self.message
    }
}

impl<M: Message> Counted<M> {
    /// Has an actor handle the message, within its span, and times it.
    pub fn carry_out<A: Handles<M>>(self, actor: &mut A, context: &mut A::Context) -> MessageResult<Self> {
        let Counted { message, mut ticket, span } = self;
        let _within = span.enter();
        let (mailbox, started) = (ticket.leave(), Instant::now());
        let result = actor.handle(message, context);
        if let Some(mailbox) = mailbox {
            mailbox.handled(started);
        }
        MessageResult(result)
    }
}

impl<M: Message> Message for Counted<M> {
    type Result = M::Result;
}
