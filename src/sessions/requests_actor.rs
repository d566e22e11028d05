//! What a session's client asks for while it is connected.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, Message, WrapFuture};
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::Grant;
use super::capabilities::Answer;
use super::late::{Join, Late, Replay};
use super::requests::{
    Auth, BadRequest, Op, Refused, Request, Subscribed, Unsubscribe, read_topics, reply, too_many_topics,
};
use super::session::{Step, judged_anew};
use super::session_actor::SessionActor;
use crate::actor_kit::Handles;
use crate::domain::{Cursor, Position, Refusal, RefusalKind, Selector};
use crate::log::Recovery;
use crate::rooms::Widened;
use crate::topics::UNAVAILABLE;
use crate::wire::{CloseCode, RecoveryFailure, websocket};

/// A request as its text; dropping `done` lets the next one in.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Perform {
    /// JSON.
    pub text: String,
    /// Dropped when it has been answered.
    pub done: oneshot::Sender<()>,
}

impl Handles<Perform> for SessionActor {
    fn handle(&mut self, Perform { text, done }: Perform, context: &mut Context<Self>) {
        match Request::parse(&text) {
            Ok(request) => self.perform(request, done, context),
            Err(BadRequest::Refused(id, refusal)) => self.reply(id, Err(&refusal)),
            Err(BadRequest::Unanswerable) => self.leave(CloseCode::Protocol, context),
        }
    }
}

impl SessionActor {
    fn perform(&mut self, request: Request, done: oneshot::Sender<()>, context: &mut Context<Self>) {
        let (id, who, capabilities) = (request.id, self.who.clone(), self.context.capabilities.clone());
        match request.op {
            Op::Ping => self.reply(id, Ok("{}")),
            Op::Publish(event) => self.answer(id, capabilities.publish(who, event), done, context),
            Op::Command(command) => self.answer(id, capabilities.command(who, command), done, context),
            Op::Ack(ack) => self.answer(id, capabilities.ack(who, ack), done, context),
            Op::Auth(auth) => self.renew(id, auth, done, context),
            Op::Unsubscribe(unsubscribe) => self.unsubscribe(id, &unsubscribe),
            Op::Subscribe(subscribe) => {
                self.late = Some(Box::new(Late { id, subscribe, replay: None, done }));
                if self.is_live {
                    self.go_on_late(context);
                }
            }
        }
    }

    pub(super) fn reply(&self, id: u64, outcome: Result<&str, &Refusal>) {
        self.queue.push_control(websocket::text_frame(&reply(id, outcome)));
    }

    fn answer(
        &mut self,
        id: u64,
        work: LocalBoxFuture<'static, Answer>,
        done: oneshot::Sender<()>,
        context: &mut Context<Self>,
    ) {
        let work = self.about.within(id, self.settled(work));
        context.spawn(work.into_actor(self).map(move |outcome, actor, _| {
            actor.reply(id, outcome.as_deref());
            drop(done);
        }));
    }

    /// What is refused for its sender's credentials or rights is counted, and answered more and more slowly.
    fn settled<T: 'static>(
        &self,
        work: LocalBoxFuture<'static, Result<T, Refusal>>,
    ) -> LocalBoxFuture<'static, Result<T, Refusal>> {
        let (peer, capabilities) = (self.about.peer, self.context.capabilities.clone());
        Box::pin(async move {
            match work.await {
                Ok(done) => Ok(done),
                Err(refusal) => Err(capabilities.settle(peer, refusal).await),
            }
        })
    }

    /// The same principal with newer credentials: what it may hear is judged anew.
    fn renew(&mut self, id: u64, auth: Auth, done: oneshot::Sender<()>, context: &mut Context<Self>) {
        if auth.topics.is_some() || auth.cursor.is_some() {
            let refusal =
                Refusal::invalid("topics", "and cursor belong to the first auth: subscribe instead");
            return self.reply(id, Err(&refusal));
        }
        let (capabilities, selectors) = (self.context.capabilities.clone(), self.heard());
        let authenticated = capabilities.authenticate(auth.token);
        let known = async move {
            let who = authenticated.await?;
            if let Some(freshened) = capabilities.freshen(&who, &selectors) {
                freshened.await;
            }
            Ok(who)
        };
        let renewed = self.about.within(id, self.settled(Box::pin(known)));
        context.spawn(renewed.into_actor(self).map(move |renewed, actor, _| {
            let outcome = renewed.and_then(|who| actor.adopt(who));
            actor.reply(id, outcome.as_ref().map(|()| "{}"));
            drop(done);
        }));
    }

    fn unsubscribe(&mut self, id: u64, unsubscribe: &Unsubscribe) {
        let (selectors, _) = read_topics(&unsubscribe.topics);
        let kept = |grant: &Grant| (!selectors.contains(&grant.selector)).then(|| grant.clone());
        if let Some(grants) = self.context.rooms.regrant(self.about.id, kept) {
            self.session.set_grants(grants);
            self.tell_hearing(false);
        }
        let left: Vec<String> =
            self.session.grants().iter().map(|grant| grant.selector.to_string()).collect();
        let left = serde_json::to_string(&left).expect("texts are plain data");
        self.reply(id, Ok(&format!("{{\"topics\":{left}}}")));
    }

    /// Goes on with the subscription that waits, now that the session is live.
    pub(super) fn go_on_late(&mut self, context: &mut Context<Self>) {
        let Some(late) = &mut self.late else { return };
        match &mut late.replay {
            None => {
                let (selectors, _) = read_topics(&late.subscribe.topics);
                let Some(freshened) = self.context.capabilities.freshen(&self.who, &selectors) else {
                    return self.subscribe(context);
                };
                let (id, run) = (late.id, self.log.clone());
                context.spawn(freshened.into_actor(self).map(move |(), actor, context| {
                    let is_still =
                        actor.late.as_ref().is_some_and(|late| late.id == id && late.replay.is_none());
                    if is_still && run.is_none_or(|run| actor.reads(&run)) {
                        actor.subscribe(context);
                    }
                }));
            }
            Some(replay) => {
                if let Some(join) = replay.waits.take() {
                    self.join_late(join, context);
                }
            }
        }
    }

    /// The log has started afresh while a subscription was being given its past: there is none.
    pub(super) fn fail_late(&mut self) {
        if let Some(replay) = self.replay() {
            replay.fail(RecoveryFailure::EpochChanged);
            replay.waits = Some(Join::Now);
        }
    }

    fn subscribe(&mut self, context: &mut Context<Self>) {
        let (Some(mut late), Some(log)) = (self.late.take(), self.log.clone()) else { return };
        let (selectors, mut refused) = read_topics(&late.subscribe.topics);
        let (held, limit) = (self.session.grants(), self.context.max_topics);
        let fresh = selectors.iter().filter(|own| held.iter().all(|grant| grant.selector != **own)).count();
        let asked = held.len() + fresh + refused.len();
        if asked > limit {
            return self.reply(late.id, Err(&too_many_topics(asked, limit)));
        }
        let (mut granted, mut forbidden) = (Vec::with_capacity(selectors.len()), Vec::new());
        for selector in selectors {
            match self.context.capabilities.grant(&self.who, &selector) {
                Ok(grant) => granted.push(grant),
                Err(code) => forbidden.push(Refused { topic: selector.to_string(), code }),
            }
        }
        if forbidden.iter().any(|own| own.code != UNAVAILABLE) {
            self.context.metrics.auth_failed("forbidden_topics");
        }
        refused.append(&mut forbidden);
        let cursor = late.subscribe.since.as_deref().and_then(Cursor::given);
        let selectors: Vec<Selector> = granted.iter().map(|grant| grant.selector.clone()).collect();
        let (recovery, head) = log.recovery(cursor, &selectors, self.context.log.clock().steady());
        let mut replay = Replay::new(late.id, granted.into(), refused, recovery);
        let step = match recovery {
            Recovery::Replay { after } => replay.session.behind(after),
            Recovery::Current => Step::Join { after: head.seq },
            Recovery::Fresh | Recovery::Failed(_) => {
                late.replay = Some(replay);
                self.late = Some(late);
                return self.join_late(Join::Now, context);
            }
        };
        late.replay = Some(replay);
        self.late = Some(late);
        self.take_late(step, context);
    }

    fn replay(&mut self) -> Option<&mut Replay> {
        self.late.as_mut()?.replay.as_mut()
    }

    fn take_late(&mut self, step: Step, context: &mut Context<Self>) {
        match step {
            Step::Read { after } => {
                let Some(selectors) = self.replay().map(|replay| replay.session.selectors()) else { return };
                self.page(selectors, after, context, |actor, page, context| {
                    let queue = actor.queue.clone();
                    let Some(replay) = actor.replay() else { return };
                    let step = match page {
                        Ok(page) => replay.session.page(page, &queue),
                        Err(code) => Step::Close(code),
                    };
                    actor.take_late(step, context);
                });
            }
            Step::Drain { room } => self.drain(room, context, |actor, context| {
                let queue = actor.queue.clone();
                let Some(replay) = actor.replay() else { return };
                let step = replay.session.drained(&queue);
                actor.take_late(step, context);
            }),
            Step::Join { after } => self.join_late(Join::After(after), context),
            // what was trimmed meanwhile cannot be given: the client has to reload
            Step::Close(CloseCode::InsufficientState) => {
                if let Some(replay) = self.replay() {
                    replay.fail(RecoveryFailure::Evicted);
                }
                self.join_late(Join::Now, context);
            }
            Step::Close(code) => self.leave(code, context),
        }
    }

    fn join_late(&mut self, join: Join, context: &mut Context<Self>) {
        let (id, rooms) = (self.about.id, self.context.rooms.clone());
        let Some(late) = &mut self.late else { return };
        let request = late.id;
        let Some(replay) = &mut late.replay else { return };
        let replayed = match join {
            Join::Now => None,
            Join::After(after) => Some((after, request)),
        };
        match rooms.widen(id, replay.session.grants(), replayed) {
            Widened::Live { position, grants } => self.subscribed(position, grants),
            Widened::Behind { after } => {
                let step = replay.session.behind(after);
                self.take_late(step, context);
            }
            Widened::NotLive => replay.waits = Some(join),
            // it has been told why
            Widened::Gone => self.late = None,
        }
    }

    fn subscribed(&mut self, position: Position, grants: Arc<[Grant]>) {
        self.session.set_grants(grants);
        self.tell_hearing(false);
        let Some(late) = self.late.take() else { return };
        let Late { id, replay: Some(mut replay), done, .. } = *late else { return };
        self.context.metrics.replayed(replay.session.take_replayed());
        let topics = replay.session.grants().iter().map(|grant| grant.selector.to_string()).collect();
        let (recovered, reason) = (replay.recovery.recovered(), replay.recovery.reason());
        let subscribed = Subscribed { topics, refused: replay.refused, position, recovered, reason };
        let data = serde_json::to_string(&subscribed).expect("plain data");
        self.reply(id, Ok(&data));
        drop(done);
        // what has come into being between their judgement and here was not heard of by way of them
        let added = replay.session.selectors();
        self.recheck_those(|selector| added.contains(selector), false);
    }

    /// Takes newer credentials of the same principal.
    fn adopt(&mut self, who: crate::identity::Principal) -> Result<(), Refusal> {
        let sub = |who: &crate::identity::Principal| who.user.as_ref().map(|user| user.sub.clone());
        let own_key = sub(&who).is_some() || who.key_id == self.who.key_id;
        if who.tenant != self.who.tenant || sub(&who) != sub(&self.who) || !own_key {
            let detail = "the token is somebody else's: open a connection of its own";
            return Err(Refusal::new(RefusalKind::Forbidden, "other_identity", detail));
        }
        self.context.rooms.renew(self.about.id, who.credentials());
        self.who = who;
        // what it was granted as whoever it was before counts no more
        self.recheck_those(|_| true, false);
        self.tell_hearing(false);
        Ok(())
    }

    /// All that it hears or is about to hear.
    pub(super) fn heard(&self) -> Vec<Selector> {
        let late = self.late.as_ref().and_then(|late| late.replay.as_ref());
        let late = late.into_iter().flat_map(|replay| replay.session.grants().iter());
        self.session.grants().iter().chain(late).map(|grant| grant.selector.clone()).collect()
    }

    /// Waits for what has to be known for it, if anything, judges what the principal may hear anew, and goes on with
    /// the run of the log that it has.
    pub(super) fn recheck_after(
        &mut self,
        looked: Option<LocalBoxFuture<'static, ()>>,
        context: &mut Context<Self>,
        go_on: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        let Some(looked) = looked else {
            self.recheck();
            return go_on(self, context);
        };
        let run = self.log.clone();
        context.spawn(looked.into_actor(self).map(move |(), actor, context| {
            actor.recheck();
            if run.is_none_or(|run| actor.reads(&run)) {
                go_on(actor, context);
            }
        }));
    }

    /// Judges what the principal may hear anew: takes away what it may not any more, and says so.
    pub(super) fn recheck(&mut self) {
        self.recheck_those(|_| true, true);
    }

    /// `keeps`: whether what it was granted stands where nobody can be asked about it.
    fn recheck_those(&mut self, concerned: impl Fn(&Selector) -> bool, keeps: bool) {
        let (capabilities, who) = (self.context.capabilities.clone(), self.who.clone());
        let grants: Vec<Grant> =
            self.session.grants().iter().filter(|grant| !concerned(&grant.selector)).cloned().collect();
        let late = self.late.as_ref().and_then(|late| late.replay.as_ref());
        let late = late.into_iter().flat_map(|replay| replay.session.grants().iter());
        let held: Vec<Grant> = self.session.grants().iter().chain(late).cloned().collect();
        let of = |grants: &[Grant], selector: &Selector| {
            grants.iter().find(|grant| grant.selector == *selector).cloned()
        };
        let judge = |selector: &Selector| match of(&grants, selector) {
            Some(grant) => Ok(grant),
            None => capabilities.grant(&who, selector).or_else(|code| match code {
                // what an entity says never changes: whoever was let in before nobody could be asked stays
                UNAVAILABLE if keeps => of(&held, selector).ok_or(code),
                _ => Err(code),
            }),
        };
        // a subscription that is under way says in its answer what it does not add
        if let Some(replay) = self.replay() {
            let (kept, refused) = judged_anew(replay.session.grants(), judge);
            replay.session.set_grants(kept);
            replay.refused.extend(refused);
        }
        let (kept, refused) = judged_anew(self.session.grants(), judge);
        if kept == *self.session.grants() {
            return;
        }
        let of = |own: &Grant| kept.iter().find(|grant| grant.selector == own.selector).cloned();
        if let Some(grants) = self.context.rooms.regrant(self.about.id, of) {
            self.session.set_grants(grants);
            self.tell_hearing(false);
        }
        for Refused { topic, code } in &refused {
            self.queue.push_control(self.queue.dialect().unsubscribed(topic, code));
        }
    }
}
