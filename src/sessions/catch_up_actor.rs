//! How a session comes from where its cursor stands to where its worker does.

use std::future::poll_fn;
use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::SessionActor;
use super::session::Step;
use crate::domain::Selector;
use crate::log::{LogError, Page, TenantLog};
use crate::rooms::Joined;
use crate::wire::CloseCode;

impl SessionActor {
    pub(super) fn take(&mut self, step: Step, context: &mut Context<Self>) {
        match step {
            Step::Read { after } => self.read(after, context),
            Step::Drain { room } => self.drain(room, context, |actor, context| {
                let step = actor.session.drained(&actor.queue);
                actor.take(step, context);
            }),
            Step::Join { after } => match self.context.rooms.join(self.about.id, after) {
                Ok(Joined::Live) => {
                    self.context.metrics.replayed(self.session.take_replayed());
                    self.went_live(context);
                }
                Ok(Joined::Behind { after }) => self.read(after, context),
                Err(code) => self.end(code, context),
            },
            Step::Close(code) => self.leave(code, context),
        }
    }

    fn read(&mut self, after: u64, context: &mut Context<Self>) {
        self.page(self.session.selectors(), after, context, |actor, page, context| {
            let step = match page {
                Ok(page) => actor.session.page(page, &actor.queue),
                Err(code) => Step::Close(code),
            };
            actor.take(step, context);
        });
    }

    /// Reads a page of the log, then goes on.
    pub(super) fn page(
        &mut self,
        selectors: Arc<[Selector]>,
        after: u64,
        context: &mut Context<Self>,
        go_on: impl FnOnce(&mut Self, Result<Page, CloseCode>, &mut Context<Self>) + 'static,
    ) {
        let Some(tenant_log) = self.log.clone() else { return };
        let (log, limit) = (self.context.log.clone(), self.context.page);
        let run = tenant_log.clone();
        let page = async move { log.read(&tenant_log, &selectors, after, limit).await };
        context.spawn(page.into_actor(self).map(move |page, actor, context| {
            if !actor.reads(&run) {
                return;
            }
            let page = page.map_err(|error| match error {
                LogError::Unavailable(_) | LogError::InDoubt | LogError::Overloaded => CloseCode::GoingAway,
                _ => CloseCode::InsufficientState,
            });
            match &page {
                Ok(Page::Events { events, .. }) if events.iter().any(|event| event.is_internal()) => {
                    actor.judge(context, |actor, context| go_on(actor, page, context));
                }
                _ => go_on(actor, page, context),
            }
        }));
    }

    /// Waits until most of the queue has been sent and `room` bytes fit, then goes on.
    pub(super) fn drain(
        &mut self,
        room: usize,
        context: &mut Context<Self>,
        go_on: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        let (queue, Some(run)) = (self.queue.clone(), self.log.clone()) else { return };
        let drained = async move { poll_fn(|context| queue.poll_drained(context, room)).await };
        context.spawn(drained.into_actor(self).map(move |(), actor, context| {
            if !actor.queue.has_left() && actor.reads(&run) {
                go_on(actor, context);
            }
        }));
    }

    /// Judges what the principal may hear by what the store says now, then goes on.
    pub(super) fn judge(
        &mut self,
        context: &mut Context<Self>,
        go_on: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        let renewed = self.context.capabilities.renew(&self.who, &self.heard());
        let run = self.log.clone();
        context.spawn(renewed.into_actor(self).map(move |renewed, actor, context| match renewed {
            Ok(()) => {
                actor.recheck();
                if run.is_none_or(|run| actor.reads(&run)) {
                    go_on(actor, context);
                }
            }
            Err(_) => actor.leave(CloseCode::GoingAway, context),
        }));
    }

    /// Whether this is still the run of the log that it is given; the past of another one is of no use.
    pub(super) fn reads(&self, run: &Arc<TenantLog>) -> bool {
        self.log.as_ref().is_some_and(|own| Arc::ptr_eq(own, run))
    }
}
