use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Listening, PollAnswer};
use crate::domain::Position;
use crate::rooms::{ConnectionId, Rooms, Standing};
use crate::wire::{Audience, Event, Format};

/// A long-poll: a session that lives until there is something to answer.
///
/// Dropped before that, because its client went away, it ends its session at once.
pub struct LongPoll {
    /// The session.
    pub session: Listening,
    /// Its number.
    pub id: ConnectionId,
    /// The registry that it is in.
    pub rooms: Rooms,
    /// Where its client stands, as far as that can be read.
    pub cursor: Option<Position>,
    /// How long to wait for a first event.
    pub wait: Duration,
    /// How long a replay may look for the client's own events before the client is told how far it got.
    pub patience: Duration,
}

impl LongPoll {
    /// The answer: at once when there is something, or after the wait.
    ///
    /// The cursor is where the registry says that the session stands at the moment when its queue is found
    /// empty. Nothing else runs on this thread in between, so what comes later lies behind the cursor,
    /// and everything before it is in the answer.
    ///
    /// `owed` is what is computed for the client, and told with the answer.
    pub async fn answer(self, owed: impl Future<Output = Vec<Arc<Event>>>) -> PollAnswer {
        let mut answer = PollAnswer::new(self.cursor);
        let due = Instant::now() + self.wait;
        let late = due.max(Instant::now() + self.patience);
        let mut timer = pin!(sleep_until(due));
        poll_fn(|context| {
            loop {
                let Poll::Pending = self.collect(&mut answer, context) else {
                    return Poll::Ready(());
                };
                let Some(Standing { position, is_live }) = self.rooms.standing(self.id) else {
                    return Poll::Pending;
                };
                let until = if is_live { due } else { late };
                if is_live && answer.has_news() || until <= Instant::now() {
                    answer.reach(position);
                    if !is_live {
                        answer.cut_short();
                    }
                    return Poll::Ready(());
                }
                timer.as_mut().reset(until);
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        if self.rooms.standing(self.id).is_some_and(|own| own.is_live) {
            for event in owed.await {
                answer.tell_at_last(event.frame(Format::Json, Audience::Full));
            }
        }
        self.session.queue().hand_back();
        answer
    }

    /// Takes what waits; ready when the answer is full or the session over.
    fn collect(&self, answer: &mut PollAnswer, context: &mut Context<'_>) -> Poll<()> {
        let queue = self.session.queue();
        loop {
            if queue.next_len().is_some_and(|bytes| !answer.has_room_for(bytes)) {
                answer.cut_short();
                return Poll::Ready(());
            }
            match queue.poll_outgoing(context) {
                Poll::Ready(Some(outgoing)) => {
                    if queue.is_cut() {
                        answer.forget();
                    }
                    answer.take(outgoing);
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
