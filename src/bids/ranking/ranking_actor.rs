use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::BidRanking;
use super::directory::Pending;
use super::turn::{BidKey, Change, Held, Means, Outcome};
use crate::actor_kit::{Counted, Handles, Port};
use crate::bids::Bid;
use crate::storage::StoreError;

/// Puts the changes of one bid in order: one turn at a time, each with everything that waits.
pub struct RankingActor {
    key: BidKey,
    means: Means,
    runtime: Handle,
    held: Held,
    changes: VecDeque<Propose>,
    looks: Vec<Look>,
    is_busy: bool,
}

/// The threads that the actors of bids live on.
pub type RankingThreads = Vec<ArbiterHandle>;

impl RankingActor {
    /// Starts on one of these threads; what it asks the database runs on `runtime`.
    pub(super) fn start(key: BidKey, threads: &[ArbiterHandle], means: Means, runtime: Handle) -> Port<Self> {
        let (held, changes, looks) = (Held::default(), VecDeque::new(), Vec::new());
        let (limit, mailboxes) = (means.options.waiting, means.metrics.mailboxes("ranking"));
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let thread = &threads[hasher.finish() as usize % threads.len()];
        let actor = RankingActor { key, means, runtime, held, changes, looks, is_busy: false };
        Port::new(Actor::start_in_arbiter(thread, |_| actor), limit, mailboxes)
    }

    fn turn(&mut self, context: &mut Context<Self>) {
        if self.is_busy || (self.changes.is_empty() && self.looks.is_empty()) {
            return;
        }
        self.is_busy = true;
        let taken = self.changes.len().min(self.means.options.batch);
        let changes: Vec<Propose> = self.changes.drain(..taken).collect();
        let looks = std::mem::take(&mut self.looks);
        let work = work(self.key.clone(), self.means.clone(), self.held.clone(), changes, looks);
        let done = self.runtime.spawn(work).into_actor(self).map(|done, actor, context| {
            if let Err(error) = done {
                tracing::error!(%error, bid_id = &*actor.key.bid_id, "a turn of a ranking broke off");
                actor.means.metrics.actor_panicked();
                // loaded anew by the next
                actor.held = Held::default();
            }
            actor.is_busy = false;
            actor.turn(context);
        });
        context.spawn(done);
    }
}

async fn work(key: BidKey, means: Means, held: Held, changes: Vec<Propose>, looks: Vec<Look>) {
    if !changes.is_empty() {
        let (asked, replies): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|own| (own.change, (own.reply, own.pending))).unzip();
        for ((reply, pending), outcome) in replies.into_iter().zip(means.carry_out(&key, &held, asked).await)
        {
            // whoever asked may have gone
            let _ = reply.send(outcome);
            drop(pending);
        }
    }
    if looks.is_empty() {
        return;
    }
    let bid = means.refresh(&key, &held).await;
    let own = held.lock().expect("no panic while held");
    for Look { look, pending } in looks {
        match (&bid, &*own) {
            (Ok(Some(bid)), Some(ranking)) => look(Ok(Some((bid, ranking)))),
            (Ok(_), _) => look(Ok(None)),
            (Err(error), _) => look(Err(StoreError::Unavailable(error.to_string()))),
        }
        drop(pending);
    }
}

/// What is told to somebody who looks at a ranking; None: there is no such bid.
pub(super) type Seen<'a> = Result<Option<(&'a Bid, &'a BidRanking)>, StoreError>;

impl Actor for RankingActor {
    type Context = Context<Self>;
}

/// Somebody asks for a change.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Propose {
    pub change: Change,
    pub reply: oneshot::Sender<Outcome>,
    pub pending: Pending,
}

/// Somebody looks at the ranking as it is.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Look {
    pub look: Box<dyn FnOnce(Seen<'_>) + Send>,
    pub pending: Pending,
}

impl<M: Message> Handler<Counted<M>> for RankingActor
where
    RankingActor: Handles<M>,
{
    type Result = MessageResult<Counted<M>>;

    fn handle(&mut self, message: Counted<M>, context: &mut Context<Self>) -> Self::Result {
        message.carry_out(self, context)
    }
}

impl Handles<Propose> for RankingActor {
    fn handle(&mut self, propose: Propose, context: &mut Context<Self>) {
        self.changes.push_back(propose);
        self.turn(context);
    }
}

impl Handles<Look> for RankingActor {
    fn handle(&mut self, look: Look, context: &mut Context<Self>) {
        self.looks.push(look);
        self.turn(context);
    }
}
