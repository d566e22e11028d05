use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Message};

use super::registry::DRAIN_STEP;
use super::{Attach, Attached, ConnectionId, Joined, Registry};
use crate::actor_kit::{Counted, Guarded, Port, Probe, SingleFlight};
use crate::domain::TenantId;
use crate::log::{LogObserver, TenantLog};
use crate::telemetry::Metrics;
use crate::wire::{CloseCode, Event};

/// Volatile events that may wait for one worker; beyond, they are dropped and counted.
const MAILBOX: usize = 4096;

/// A worker thread's registry, as its own sessions reach it.
#[derive(Clone)]
pub struct Rooms(Rc<RefCell<Guarded<Registry>>>);

impl Rooms {
    /// See [`Registry::attach`]; a registry that panicked over it ends the session.
    pub fn attach(&self, attach: Attach) -> Result<Attached, CloseCode> {
        self.run(|registry| registry.attach(attach, Instant::now())).ok_or(CloseCode::GoingAway)
    }

    /// See [`Registry::join`].
    pub fn join(&self, id: ConnectionId, after: u64) -> Result<Joined, CloseCode> {
        self.run(|registry| registry.join(id, after)).ok_or(CloseCode::GoingAway)
    }

    /// See [`Registry::leave`].
    pub fn leave(&self, id: ConnectionId) {
        self.run(|registry| registry.leave(id));
    }

    fn run<R>(&self, work: impl FnOnce(&mut Registry) -> R) -> Option<R> {
        self.0.borrow_mut().run(work)
    }
}

/// What other threads put before a worker; woken at most once for any amount of it.
#[derive(Debug)]
pub struct WorkerMail {
    port: Port<RoomRegistryActor>,
    advanced: Mutex<HashSet<TenantId>>,
    flight: SingleFlight,
    metrics: Arc<Metrics>,
}

impl WorkerMail {
    /// The port, for everything that is not about the log.
    pub fn port(&self) -> &Port<RoomRegistryActor> {
        &self.port
    }
}

impl LogObserver for WorkerMail {
    fn advanced(&self, log: &Arc<TenantLog>) {
        self.advanced.lock().expect("no panic while held").insert(log.tenant().clone());
        if self.flight.ask() && self.port.tell(Advance).is_err() {
            // a full mailbox is swept soon, and the sweep looks here too
            self.flight.finish();
        }
    }

    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>) {
        if self.port.tell(Volatile { tenant: log.tenant().clone(), event }).is_err() {
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
        let rooms = Rooms(Rc::new(RefCell::new(Guarded::new(rebuild, give_up))));
        let address = RoomRegistryActor { rooms: rooms.clone(), sweep, mail: None }.start();
        let port = Port::new(address, MAILBOX);
        let mail = Arc::new(WorkerMail {
            port,
            advanced: Mutex::default(),
            flight: SingleFlight::default(),
            metrics,
        });
        if mail.port.tell(Own(mail.clone())).is_err() {
            tracing::error!("the room registry did not start");
        }
        (rooms, mail)
    }

    fn take_advances(&self) {
        let Some(mail) = &self.mail else { return };
        let tenants = std::mem::take(&mut *mail.advanced.lock().expect("no panic while held"));
        self.rooms.run(|registry| tenants.iter().for_each(|tenant| registry.advance(tenant)));
    }
}

impl Actor for RoomRegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(self.sweep, |actor, _| {
            actor.take_advances();
            actor.rooms.run(|registry| registry.sweep(Instant::now()));
        });
    }
}

/// Gives the actor its own mail.
#[derive(Message)]
#[rtype(result = "()")]
struct Own(Arc<WorkerMail>);

/// Tenants' logs have moved on.
#[derive(Message)]
#[rtype(result = "()")]
struct Advance;

#[derive(Message)]
#[rtype(result = "()")]
struct Volatile {
    tenant: TenantId,
    event: Arc<Event>,
}

/// Ends every session of these keys.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Revoke(pub Arc<HashSet<Arc<str>>>);

/// A ticket has a newer connection.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ReplaceTicket {
    /// Which ticket.
    pub ticket_id: Arc<str>,
    /// Its newest connection.
    pub newer: ConnectionId,
}

/// Ends all sessions at an even pace within this time.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Drain(pub Duration);

/// How many sessions are held?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct CountSessions;

impl Handler<Counted<Own>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Own>, _: &mut Self::Context) {
        self.mail = Some(message.open().0);
        self.take_advances();
    }
}

impl Handler<Counted<Advance>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Advance>, _: &mut Self::Context) {
        message.open();
        loop {
            self.take_advances();
            if !self.mail.as_ref().is_some_and(|mail| mail.flight.finish()) {
                return;
            }
        }
    }
}

impl Handler<Counted<Volatile>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Volatile>, _: &mut Self::Context) {
        let Volatile { tenant, event } = message.open();
        self.rooms.run(|registry| registry.volatile(&tenant, &event));
    }
}

impl Handler<Counted<Revoke>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Revoke>, _: &mut Self::Context) {
        let keys = message.open().0;
        self.rooms.run(|registry| registry.revoke(&keys));
    }
}

impl Handler<Counted<ReplaceTicket>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<ReplaceTicket>, _: &mut Self::Context) {
        let ReplaceTicket { ticket_id, newer } = message.open();
        self.rooms.run(|registry| registry.replace_ticket(&ticket_id, newer));
    }
}

impl Handler<Counted<Drain>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Drain>, context: &mut Self::Context) {
        let by = Instant::now() + message.open().0;
        self.rooms.run(|registry| registry.drain(by));
        context.run_interval(DRAIN_STEP, |actor, _| {
            actor.rooms.run(|registry| registry.sweep(Instant::now()));
        });
    }
}

impl Handler<Counted<CountSessions>> for RoomRegistryActor {
    type Result = usize;

    fn handle(&mut self, message: Counted<CountSessions>, _: &mut Self::Context) -> usize {
        message.open();
        self.rooms.run(|registry| registry.len()).unwrap_or_default()
    }
}

impl Handler<Counted<Probe>> for RoomRegistryActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Probe>, _: &mut Self::Context) {
        message.open();
    }
}
