use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::envelope::{Entry, Live, read_notice};
use super::error::BridgeError;
use super::follower::Action;
use super::following::{Following, Opened};
use super::runs::Runs;
use super::store::{Past, Store, Top};
use super::subscriber::Subscriptions;
use crate::actor_kit::{Counted, Handles, Port};
use crate::domain::{Epoch, Position, TenantId};
use crate::log::{PageLimit, TenantLogs};
use crate::telemetry::Metrics;

/// Messages that may wait.
const MAILBOX: usize = 4096;
/// How often every log's top is compared with what this node has.
const TOP_CHECK: Duration = Duration::from_secs(1);
/// A log that nobody here needs is followed this much longer.
const LINGER: Duration = Duration::from_secs(60);
/// What is fetched at once of what the bus has not brought.
const FILL: PageLimit = PageLimit { events: 1000, bytes: 4 << 20 };

/// The thread that the bridge's actor lives on.
pub type BridgeThread = ArbiterHandle;

/// Keeps this node's copies of the tenants' logs: hears the bus, and fetches what it did not bring.
pub struct RedisBridgeActor {
    store: Store,
    logs: Arc<TenantLogs>,
    subscriptions: Subscriptions,
    runs: Arc<Runs>,
    runtime: Handle,
    metrics: Arc<Metrics>,
    tenants: HashMap<TenantId, Following>,
}

impl RedisBridgeActor {
    /// Starts on a thread of its own, with a port for those who ask and one for the bus; what it asks Redis runs
    /// on `runtime`.
    pub(super) fn start(
        thread: &BridgeThread,
        (store, subscriptions, runs): (Store, Subscriptions, Arc<Runs>),
        logs: Arc<TenantLogs>,
        runtime: Handle,
        metrics: Arc<Metrics>,
    ) -> (Port<Self>, Port<Self>) {
        let mailboxes = metrics.mailboxes("redis_bridge");
        let tenants = HashMap::new();
        let actor = RedisBridgeActor { store, logs, subscriptions, runs, runtime, metrics, tenants };
        let address = Actor::start_in_arbiter(thread, |_| actor);
        let asked = Port::new(address.clone(), MAILBOX, mailboxes.clone());
        // however many ask, what comes from the bus finds room
        (asked, Port::new(address, MAILBOX, mailboxes))
    }

    fn open(&mut self, tenant: &TenantId, opener: oneshot::Sender<Opened>, context: &mut Context<Self>) {
        if let Some(own) = self.tenants.get_mut(tenant) {
            own.idle_since = None;
            match own.log.clone() {
                // whoever asked may have gone, here as below
                Some(log) => drop(opener.send(Ok(log))),
                None => {
                    own.openers.push(opener);
                    self.ask(tenant, context);
                }
            }
            return;
        }
        let own = Following { asking: true, openers: vec![opener], ..Following::default() };
        self.tenants.insert(tenant.clone(), own);
        // heard before it is asked where it stands: nothing can fall between
        let following = self.subscriptions.follow(self.store.keys.live(tenant));
        self.await_top(tenant.clone(), following, context);
    }

    /// Asks a log where it stands; one question at a time.
    fn ask(&mut self, tenant: &TenantId, context: &mut Context<Self>) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        if own.asking {
            own.ask_again = true;
            return;
        }
        (own.asking, own.ask_again) = (true, false);
        own.asked_now.append(&mut own.asked_next);
        self.await_top(tenant.clone(), std::future::ready(()), context);
    }

    fn await_top(
        &mut self,
        tenant: TenantId,
        before: impl Future<Output = ()> + Send + 'static,
        context: &mut Context<Self>,
    ) {
        let (store, runs, own) = (self.store.clone(), self.runs.clone(), tenant.clone());
        let asked = self.runtime.spawn(async move {
            before.await;
            let top = store.top(&own).await?;
            runs.meet_in_time(&own, top.run).await?;
            Ok(top)
        });
        let asked =
            async move { asked.await.unwrap_or_else(|error| Err(BridgeError::Away(error.to_string()))) };
        context.spawn(
            asked.into_actor(self).map(move |top, actor, context| actor.topped(&tenant, top, context)),
        );
    }

    fn topped(&mut self, tenant: &TenantId, top: Result<Top, BridgeError>, context: &mut Context<Self>) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        own.asking = false;
        let waiting = std::mem::take(&mut own.asked_now);
        match top {
            Ok(top) => {
                let actions = own.follower.top(top.run.epoch, top.seq, top.trimmed);
                self.act(tenant, actions, context);
                self.settle(tenant, waiting, top);
            }
            Err(error) => {
                tracing::debug!(%error, %tenant, "the log could not be asked where it stands");
                own.follower.failed();
                let openers = std::mem::take(&mut own.openers);
                let waiting = waiting.into_iter().map(|(_, waiter)| waiter);
                for waiter in openers.into_iter().chain(waiting) {
                    let _ = waiter.send(Err(error.clone().into()));
                }
                if own.log.is_none() && !own.ask_again {
                    self.forget(tenant);
                    return;
                }
            }
        }
        if self.tenants.get(tenant).is_some_and(|own| own.ask_again) {
            self.ask(tenant, context);
        }
    }

    /// Answers those who asked for a position: at once where it is here or beyond the top.
    fn settle(&mut self, tenant: &TenantId, waiting: Vec<(Position, oneshot::Sender<Opened>)>, top: Top) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        for (position, waiter) in waiting {
            let is_coming = position.epoch == top.run.epoch && position.seq <= top.seq;
            match (&own.log, is_coming) {
                (Some(_), true) => own.awaited.push((position, waiter)),
                (Some(log), false) => drop(waiter.send(Ok(log.clone()))),
                (None, _) => {}
            }
        }
        own.answer_awaited();
    }

    fn act(&mut self, tenant: &TenantId, actions: Vec<Action>, context: &mut Context<Self>) {
        for action in actions {
            match action {
                Action::AskTop => self.ask(tenant, context),
                Action::Fill { epoch, after, up_to } => self.fill(tenant, epoch, (after, up_to), context),
                Action::Begin { epoch, before } => {
                    if self.tenants.get(tenant).is_some_and(|own| own.log.is_some()) {
                        self.metrics.bridge().renewed();
                    }
                    self.begin(tenant, epoch, before);
                }
                Action::Lost { epoch, before } => {
                    tracing::error!(%tenant, "events were gone from the log before this node had them");
                    self.metrics.bridge().lost();
                    self.logs.lose(tenant);
                    self.begin(tenant, epoch, before);
                }
                Action::Show(entries) => self.show(tenant, &entries),
            }
        }
    }

    fn begin(&mut self, tenant: &TenantId, epoch: Epoch, before: u64) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let log = self.logs.begin(tenant, epoch, before);
        own.log = Some(log.clone());
        for opener in std::mem::take(&mut own.openers) {
            let _ = opener.send(Ok(log.clone()));
        }
        own.answer_awaited();
    }

    fn show(&mut self, tenant: &TenantId, entries: &[Entry]) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let Some(log) = own.log.clone() else { return };
        let now = self.logs.clock().steady();
        let events = entries.iter().map(|entry| entry.event(log.epoch(), now)).collect::<Result<Vec<_>, _>>();
        match events {
            Ok(events) => self.logs.show_events(&log, events),
            Err(error) => {
                // what no release writes is passed over by nobody: sessions come back to what is readable
                tracing::error!(%error, %tenant, "an entry of the log cannot be read");
                self.metrics.bridge().malformed();
                self.logs.lose(tenant);
                let head = own.follower.head().map_or(0, |(_, head)| head);
                self.begin(tenant, log.epoch(), head);
                return;
            }
        }
        own.answer_awaited();
    }

    fn fill(&mut self, tenant: &TenantId, epoch: Epoch, span: (u64, u64), context: &mut Context<Self>) {
        self.metrics.bridge().filling();
        let (store, asked) = (self.store.clone(), tenant.clone());
        let read = self.runtime.spawn(async move { store.read(&asked, epoch, None, span, FILL).await });
        let read =
            async move { read.await.unwrap_or_else(|error| Err(BridgeError::Away(error.to_string()))) };
        let tenant = tenant.clone();
        context.spawn(read.into_actor(self).map(move |past, actor, context| {
            actor.filled(&tenant, epoch, past, context);
        }));
    }

    fn filled(
        &mut self,
        tenant: &TenantId,
        epoch: Epoch,
        past: Result<Option<Past>, BridgeError>,
        context: &mut Context<Self>,
    ) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        match past {
            Ok(Some(past)) => {
                let actions = own.follower.filled(epoch, past.entries, past.scanned_to);
                self.act(tenant, actions, context);
            }
            Ok(None) => {
                own.follower.failed();
                self.ask(tenant, context);
            }
            Err(error) => {
                tracing::debug!(%error, %tenant, "the log could not be read");
                own.follower.failed();
            }
        }
    }

    fn forget(&mut self, tenant: &TenantId) {
        self.tenants.remove(tenant);
        self.logs.end(tenant);
        self.runs.forget(tenant);
        self.runtime.spawn(self.subscriptions.leave(self.store.keys.live(tenant)));
    }

    /// Stops following what nobody here has needed for a while.
    fn forget_idle(&mut self) {
        let now = Instant::now();
        let mut idle = Vec::new();
        for (tenant, own) in &mut self.tenants {
            // one handle is this actor's, one the table's
            let is_needed = own.log.as_ref().is_none_or(|log| Arc::strong_count(log) > 2);
            own.idle_since = if is_needed { None } else { own.idle_since.or(Some(now)) };
            if own.idle_since.is_some_and(|since| now - since >= LINGER) {
                idle.push(tenant.clone());
            }
        }
        for tenant in idle {
            // whoever has opened it in this very moment keeps it
            if self.logs.end_unused(&tenant) {
                self.forget(&tenant);
            }
        }
    }

    fn ask_all(&mut self, context: &mut Context<Self>) {
        let tenants: Vec<TenantId> = self.tenants.keys().cloned().collect();
        tenants.iter().for_each(|tenant| self.ask(tenant, context));
    }
}

impl Actor for RedisBridgeActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(TOP_CHECK, |actor, context| {
            let (now, logs) = (actor.logs.clock().steady(), actor.logs.clone());
            logs.shrink_windows(now);
            actor.forget_idle();
            actor.ask_all(context);
        });
    }
}

/// A tenant's log is needed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Open {
    pub tenant: TenantId,
    pub opener: oneshot::Sender<Opened>,
}

/// Somebody has a position that is not known here: answered when it is here, or known to be of no use.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Await {
    pub tenant: TenantId,
    pub position: Position,
    pub waiter: oneshot::Sender<Opened>,
}

/// A message has come from the bus.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Heard {
    pub channel: String,
    pub bytes: Box<[u8]>,
}

/// A link stands again: whatever was published meanwhile was not heard.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Linked;

impl<M: Message> Handler<Counted<M>> for RedisBridgeActor
where
    RedisBridgeActor: Handles<M>,
{
    type Result = MessageResult<Counted<M>>;

    fn handle(&mut self, message: Counted<M>, context: &mut Context<Self>) -> Self::Result {
        message.carry_out(self, context)
    }
}

impl Handles<Open> for RedisBridgeActor {
    fn handle(&mut self, Open { tenant, opener }: Open, context: &mut Context<Self>) {
        self.open(&tenant, opener, context);
    }
}

impl Handles<Await> for RedisBridgeActor {
    fn handle(&mut self, Await { tenant, position, waiter }: Await, context: &mut Context<Self>) {
        match self.tenants.get_mut(&tenant) {
            Some(own) => {
                own.asked_next.push((position, waiter));
                self.ask(&tenant, context);
            }
            // forgotten meanwhile: one who comes begins at the top, and this is not beyond it
            None => self.open(&tenant, waiter, context),
        }
    }
}

impl Handles<Heard> for RedisBridgeActor {
    fn handle(&mut self, Heard { channel, bytes }: Heard, context: &mut Context<Self>) {
        self.metrics.bridge().heard(bytes.len());
        if channel == self.store.keys.nodes() {
            match read_notice(&bytes) {
                Ok(notice) => notice.iter().for_each(|notice| self.logs.hear(notice)),
                Err(_) => self.metrics.bridge().malformed(),
            }
            return;
        }
        let Some(tenant) = self.store.keys.tenant_of(&channel) else { return };
        let Some(own) = self.tenants.get_mut(&tenant) else { return };
        let Live { epoch, entries } = match Live::read(&bytes) {
            Ok(Some(live)) => live,
            unread => {
                let why =
                    if unread.is_ok() { "it was written by a newer release" } else { "it is malformed" };
                tracing::warn!(channel, why, "a message of the bus cannot be read");
                self.metrics.bridge().malformed();
                return;
            }
        };
        let (logged, volatile): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.seq > 0);
        let actions = if logged.is_empty() { Vec::new() } else { own.follower.live(epoch, logged) };
        let log = own.log.clone();
        self.act(&tenant, actions, context);
        let now = self.logs.clock().steady();
        for entry in volatile {
            match (&log, entry.event(epoch, now)) {
                (Some(log), Ok(event)) if log.epoch() == epoch => self.logs.show_volatile(log, event),
                // of a run that has ended, or not begun here
                (_, Ok(_)) => {}
                (_, Err(_)) => self.metrics.bridge().malformed(),
            }
        }
    }
}

impl Handles<Linked> for RedisBridgeActor {
    fn handle(&mut self, _: Linked, context: &mut Context<Self>) {
        self.ask_all(context);
    }
}
