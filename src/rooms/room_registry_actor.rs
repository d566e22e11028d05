use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult};

use super::upkeep::DRAIN_STEP;
use super::{Attach, Attached, Connection, ConnectionId, Joined, Registry, Standing, Widened};
use crate::actor_kit::{Counted, Guarded, Handles, Port, PortError, Probe, SingleFlight};
use crate::domain::{TenantId, Topic};
use crate::identity::{Credentials, Revoked};
use crate::limits::Blocks;
use crate::log::{LogObserver, NodeNotice, TenantLog};
use crate::sessions::Grant;
use crate::telemetry::Metrics;
use crate::wire::{CloseCode, Event};

/// Volatile events that may wait for one worker; beyond, they are dropped and counted.
const MAILBOX: usize = 4096;
/// Questions that may wait beside them, so that no flood of events makes a worker look dead.
const QUESTIONS: usize = 256;

/// A worker thread's registry, as its own sessions reach it.
#[derive(Clone)]
pub struct Rooms {
    registry: Rc<RefCell<Guarded<Registry>>>,
    sessions: Arc<AtomicUsize>,
}

impl Rooms {
    /// See [`Registry::attach`]; a registry that panicked over it ends the session.
    pub fn attach(&self, attach: Attach) -> Result<Attached, CloseCode> {
        self.run(|registry| registry.attach(attach, Instant::now())).ok_or(CloseCode::GoingAway)
    }

    /// See [`Registry::join`].
    pub fn join(&self, id: ConnectionId, after: u64) -> Result<Joined, CloseCode> {
        self.run(|registry| registry.join(id, after)).ok_or(CloseCode::GoingAway)
    }

    /// See [`Registry::widen`].
    pub fn widen(&self, id: ConnectionId, added: &[Grant], replayed: Option<(u64, u64)>) -> Widened {
        self.run(|registry| registry.widen(id, added, replayed)).unwrap_or(Widened::Gone)
    }

    /// See [`Registry::regrant`].
    pub fn regrant(&self, id: ConnectionId, kept: impl Fn(&Grant) -> Option<Grant>) -> Option<Arc<[Grant]>> {
        self.run(|registry| registry.regrant(id, kept)).flatten()
    }

    /// See [`Registry::renew`].
    pub fn renew(&self, id: ConnectionId, credentials: Credentials) {
        self.run(|registry| registry.renew(id, credentials, Instant::now()));
    }

    /// See [`Registry::standing`].
    pub fn standing(&self, id: ConnectionId) -> Option<Standing> {
        self.run(|registry| registry.standing(id)).flatten()
    }

    /// See [`Registry::log_of`].
    pub fn log_of(&self, id: ConnectionId) -> Option<Arc<TenantLog>> {
        self.run(|registry| registry.log_of(id)).flatten()
    }

    /// See [`Registry::leave`].
    pub fn leave(&self, id: ConnectionId) {
        self.run(|registry| registry.leave(id));
    }

    fn run<R>(&self, work: impl FnOnce(&mut Registry) -> R) -> Option<R> {
        self.registry.borrow_mut().run(|registry| {
            let result = work(registry);
            self.sessions.store(registry.len(), Ordering::Relaxed);
            result
        })
    }
}

/// What a worker is told to do with its sessions.
#[derive(Clone, Debug)]
pub enum Order {
    /// End every session that lives by any of this.
    Revoke(Arc<Revoked>),
    /// End the older sessions of a ticket that has a newer connection.
    ReplaceTicket {
        /// Which ticket.
        ticket_id: Arc<str>,
        /// Its newest connection.
        newer: ConnectionId,
    },
    /// Have the sessions that hear any of these topics judged again.
    Recheck(Arc<HashSet<(TenantId, Topic)>>),
    /// End every session from an address that is blocked.
    EndBlocked(Arc<Blocks>),
    /// End all sessions at an even pace within this time.
    Drain(Duration),
    /// Give an event that was computed here to these sessions, or to all that hear its topic.
    Tell {
        /// Whose sessions.
        tenant: TenantId,
        /// What they are told.
        event: Arc<Event>,
        /// Which of them.
        to: Option<Arc<[ConnectionId]>>,
    },
    /// A tenant's log has started afresh: tell its sessions.
    Renew(Arc<TenantLog>),
    /// Something of a tenant's log cannot be delivered: end its sessions.
    Lose(TenantId),
}

/// What waits for a worker and must not be lost, however full its mailbox is.
#[derive(Debug, Default)]
struct Waiting {
    advanced: HashSet<TenantId>,
    orders: Vec<Order>,
}

/// What other threads put before a worker; woken at most once for any amount of it.
#[derive(Debug)]
pub struct WorkerMail {
    events: Port<RoomRegistryActor>,
    questions: Port<RoomRegistryActor>,
    /// One at a time, so that none is refused.
    wakes: Port<RoomRegistryActor>,
    sessions: Arc<AtomicUsize>,
    waiting: Mutex<Waiting>,
    flight: SingleFlight,
    metrics: Arc<Metrics>,
}

impl WorkerMail {
    /// Asks the actor.
    pub async fn ask<M>(&self, question: M) -> Result<M::Result, PortError>
    where
        M: Message<Result: Send> + Send + 'static,
        RoomRegistryActor: Handles<M>,
    {
        self.questions.ask(question).await
    }

    /// Sessions held.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Carried out before the actor's next message, whatever waits.
    pub fn order(&self, order: Order) {
        self.put(|waiting| waiting.orders.push(order));
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) {
        put(&mut self.waiting.lock().expect("no panic while held"));
        if self.flight.ask() && self.wakes.tell(Look).is_err() {
            // the worker has ended
            while self.flight.finish() {}
        }
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting.lock().expect("no panic while held"))
    }
}

impl LogObserver for WorkerMail {
    fn advanced(&self, log: &Arc<TenantLog>) {
        self.put(|waiting| {
            waiting.advanced.insert(log.tenant().clone());
        });
    }

    fn renewed(&self, log: &Arc<TenantLog>) {
        self.order(Order::Renew(log.clone()));
    }

    fn lost(&self, tenant: &TenantId) {
        self.order(Order::Lose(tenant.clone()));
    }

    fn announced(&self, notice: &NodeNotice) {
        if let NodeNotice::TicketReplaced { ticket_id, newer } = notice.clone() {
            self.order(Order::ReplaceTicket { ticket_id, newer });
        }
    }

    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>) {
        if self.events.tell(Volatile { tenant: log.tenant().clone(), event }).is_err() {
            self.metrics.dropped("worker_busy").inc();
        }
    }
}

/// The shell of a worker thread's [`Registry`].
pub struct RoomRegistryActor {
    rooms: Rooms,
    sweep: Duration,
    mail: Option<Arc<WorkerMail>>,
}

impl RoomRegistryActor {
    /// Starts on the current thread; `build` makes the registry, anew after a panic.
    pub fn start_here(
        build: impl FnMut() -> Registry + 'static,
        sweep: Duration,
        metrics: Arc<Metrics>,
    ) -> (Rooms, Arc<WorkerMail>) {
        let give_up = || {
            tracing::error!("the room registry keeps panicking; the process ends");
            std::process::abort();
        };
        let counted = metrics.clone();
        let mut build = build;
        let mut first = true;
        let rebuild = move || {
            if !std::mem::replace(&mut first, false) {
                counted.actor_panicked();
            }
            build()
        };
        let rooms = Rooms {
            registry: Rc::new(RefCell::new(Guarded::new(rebuild, give_up))),
            sessions: Arc::default(),
        };
        let address = RoomRegistryActor { rooms: rooms.clone(), sweep, mail: None }.start();
        let mailboxes = metrics.mailboxes("room_registry");
        let mail = Arc::new(WorkerMail {
            events: Port::new(address.clone(), MAILBOX, mailboxes.clone()),
            questions: Port::new(address.clone(), QUESTIONS, mailboxes.clone()),
            wakes: Port::new(address, 1, mailboxes),
            sessions: rooms.sessions.clone(),
            waiting: Mutex::default(),
            flight: SingleFlight::default(),
            metrics,
        });
        if mail.questions.tell(Own(mail.clone())).is_err() {
            tracing::error!("the room registry did not start");
        }
        (rooms, mail)
    }

    /// Does what waits; orders first, so that nobody gets an event who was to be gone before it.
    fn look(&self, context: &mut Context<Self>) {
        let Some(mail) = &self.mail else { return };
        let Waiting { advanced, orders } = mail.take();
        for order in orders {
            self.rooms.run(|registry| match &order {
                Order::Revoke(revoked) => registry.revoke(revoked),
                Order::ReplaceTicket { ticket_id, newer } => registry.replace_ticket(ticket_id, *newer),
                Order::Recheck(topics) => registry.recheck(topics),
                Order::EndBlocked(blocks) => registry.end_blocked(|address| blocks.is_blocked(address)),
                Order::Tell { tenant, event, to } => registry.tell(tenant, event, to.as_deref()),
                Order::Drain(within) => registry.drain(Instant::now() + *within),
                Order::Renew(log) => registry.renew_log(log, Instant::now()),
                Order::Lose(tenant) => registry.lose(tenant),
            });
            if let Order::Drain(_) = order {
                context.run_interval(DRAIN_STEP, |actor, _| {
                    actor.rooms.run(|registry| registry.sweep(Instant::now()));
                });
            }
        }
        self.rooms.run(|registry| advanced.iter().for_each(|tenant| registry.advance(tenant)));
    }
}

impl Actor for RoomRegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(self.sweep, |actor, context| {
            actor.look(context);
            actor.rooms.run(|registry| registry.sweep(Instant::now()));
        });
    }
}

/// Gives the actor its own mail.
#[derive(Message)]
#[rtype(result = "()")]
struct Own(Arc<WorkerMail>);

/// Something waits.
#[derive(Message)]
#[rtype(result = "()")]
struct Look;

#[derive(Message)]
#[rtype(result = "()")]
struct Volatile {
    tenant: TenantId,
    event: Arc<Event>,
}

/// Which sessions of a tenant are held? See [`Registry::connections`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<Connection>")]
pub struct ListConnections {
    /// Whose.
    pub tenant: TenantId,
    /// Those with a greater number.
    pub after: ConnectionId,
    /// At most so many.
    pub limit: usize,
}

impl<M: Message> Handler<Counted<M>> for RoomRegistryActor
where
    RoomRegistryActor: Handles<M>,
{
    type Result = MessageResult<Counted<M>>;

    fn handle(&mut self, message: Counted<M>, context: &mut Self::Context) -> Self::Result {
        message.carry_out(self, context)
    }
}

impl Handles<Own> for RoomRegistryActor {
    fn handle(&mut self, Own(mail): Own, context: &mut Self::Context) {
        self.mail = Some(mail);
        self.look(context);
    }
}

impl Handles<Look> for RoomRegistryActor {
    fn handle(&mut self, _: Look, context: &mut Self::Context) {
        loop {
            self.look(context);
            if !self.mail.as_ref().is_some_and(|mail| mail.flight.finish()) {
                return;
            }
        }
    }
}

impl Handles<Volatile> for RoomRegistryActor {
    fn handle(&mut self, Volatile { tenant, event }: Volatile, context: &mut Self::Context) {
        self.look(context);
        self.rooms.run(|registry| registry.volatile(&tenant, &event));
    }
}

impl Handles<ListConnections> for RoomRegistryActor {
    fn handle(&mut self, list: ListConnections, context: &mut Self::Context) -> Vec<Connection> {
        self.look(context);
        let ListConnections { tenant, after, limit } = list;
        self.rooms.run(|registry| registry.connections(&tenant, after, limit)).unwrap_or_default()
    }
}

impl Handles<Probe> for RoomRegistryActor {
    fn handle(&mut self, _: Probe, context: &mut Self::Context) {
        self.look(context);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::Clock;
    use crate::rooms::{RegistryOptions, Workers};

    /// Runs `test` with a worker whose sweep does not come.
    fn with_worker<T: Future<Output = ()>>(test: impl FnOnce(Rooms, Arc<WorkerMail>) -> T) {
        let second = Duration::from_secs(1);
        let options = RegistryOptions {
            heartbeat: second,
            user_heartbeat: second,
            sweep: second,
            stall: second,
            max_age: second,
            retry_spread: second,
        };
        actix_rt::System::new().block_on(async {
            let metrics = Arc::new(Metrics::default());
            let own = metrics.clone();
            let build = move || Registry::new(options, Clock::system(), own.clone());
            let (rooms, mail) = RoomRegistryActor::start_here(build, 3600 * second, metrics);
            test(rooms, mail).await;
        });
    }

    /// The same with a mailbox that no event fits into any more; nothing is handled before `test` yields.
    fn with_full_mailbox<T: Future<Output = ()>>(test: impl FnOnce(Rooms, Arc<WorkerMail>) -> T) {
        with_worker(async |rooms, mail| {
            while mail.events.tell(Probe).is_ok() {}
            test(rooms, mail).await;
        });
    }

    #[test]
    fn an_order_reaches_a_worker_whose_mailbox_is_full() {
        with_full_mailbox(async |rooms, mail| {
            while mail.questions.tell(Probe).is_ok() {}
            mail.order(Order::Drain(Duration::from_secs(1)));
            let refused = "bongsu_mailbox_refused_total{actor=\"room_registry\"} 2\n";
            assert!(mail.metrics.render().contains(refused), "the wake-up was not");
            tokio::task::yield_now().await;
            assert_eq!(rooms.run(|registry| registry.is_draining()), Some(true));
            // and the next order wakes it by itself
            assert!(mail.flight.ask());
        });
    }

    #[test]
    fn an_order_wakes_a_worker_that_is_only_asked_what_nobody_waits_for_any_more() {
        with_worker(async |rooms, mail| {
            mail.ask(Probe).await.expect("it has started");
            // thrown away unhandled
            while mail.questions.waiting() < QUESTIONS {
                assert!(mail.ask(Probe).now_or_never().is_none());
            }
            mail.order(Order::Drain(Duration::from_secs(1)));
            tokio::task::yield_now().await;
            assert_eq!(rooms.run(|registry| registry.is_draining()), Some(true));
        });
    }

    #[test]
    fn a_flood_of_events_does_not_make_a_worker_look_dead_or_empty() {
        with_full_mailbox(async |_, mail| {
            mail.sessions.store(7, Ordering::Relaxed);
            let workers = Workers::default();
            workers.add(mail);
            assert_eq!(workers.sessions(), 7);
            assert!(workers.answer(Duration::from_secs(10)).await);
        });
    }
}
