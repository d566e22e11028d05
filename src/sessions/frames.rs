use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Batcher, Batching, SendQueue};
use crate::clock::Clock;

/// A connection's frames as its socket gets them: its queue's, put together into batches where the client
/// asked for that.
pub struct Frames {
    queue: Rc<SendQueue>,
    batches: Option<Box<Batches>>,
}

struct Batches {
    batcher: Batcher,
    clock: Clock,
    /// Set to the time at which the present batch is due, if there is one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Frames {
    /// The queue's frames one by one.
    pub fn of(queue: Rc<SendQueue>) -> Self {
        Frames { queue, batches: None }
    }

    /// The same in batches of at most `most_bytes`; the queue's framing has to be
    /// [batched](crate::wire::Framing::batched).
    pub fn batched(queue: Rc<SendQueue>, batching: Batching, most_bytes: usize, clock: Clock) -> Self {
        let batcher = Batcher::new(queue.dialect(), batching, most_bytes);
        Frames { queue, batches: Some(Box::new(Batches { batcher, clock, timer: None })) }
    }

    /// The queue that they come from.
    pub fn queue(&self) -> &Rc<SendQueue> {
        &self.queue
    }

    /// The next frame for the socket; None after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(batches) = &mut self.batches else {
            return self.queue.poll_next(context);
        };
        loop {
            if let Some(frame) = batches.batcher.pop() {
                return Poll::Ready(Some(frame));
            }
            match self.queue.poll_outgoing(context) {
                Poll::Ready(Some(outgoing)) => {
                    if self.queue.is_cut() {
                        batches.batcher.discard();
                    }
                    batches.batcher.push(outgoing, Instant::now().into_std(), batches.clock.now());
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if batches.poll_due(context).is_ready() => {
                    batches.batcher.flush(batches.clock.now());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Batches {
    /// Ready when the present batch has to go out; never while there is none.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.batcher.due().map(Instant::from_std) else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context)
    }
}
