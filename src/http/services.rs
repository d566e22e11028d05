use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix_web::{HttpRequest, web};

use super::gate::Gate;
use crate::accounts::Accounts;
use crate::bids::Bids;
use crate::bids::copies::Copies;
use crate::fleets::Fleets;
use crate::identity::{Authenticator, Revocations, Tickets};
use crate::jobs::JobDesk;
use crate::limits::Blocks;
use crate::log::{EventLog, NodeNotice};
use crate::orders::Orders;
use crate::publishing::Publisher;
use crate::rooms::Workers;
use crate::settings::Settings;
use crate::storage::Database;
use crate::telemetry::Metrics;
use crate::topics::Topics;

/// What handlers work with; one per engine, shared by its worker threads.
#[derive(Clone)]
pub struct Services {
    /// The options in force.
    pub settings: Arc<Settings>,
    /// This node's name.
    pub server_id: Arc<str>,
    /// The database.
    pub database: Database,
    /// The event log.
    pub log: EventLog,
    /// What is no longer good.
    pub revocations: Arc<Revocations>,
    /// Tells who sends a request.
    pub authenticator: Authenticator,
    /// Tickets.
    pub tickets: Tickets,
    /// Declared topics, and what subscriptions are judged by.
    pub topics: Topics,
    /// Fleets.
    pub fleets: Fleets,
    /// Bids.
    pub bids: Bids,
    /// What sessions are told of rankings beside the log.
    pub copies: Copies,
    /// Orders.
    pub orders: Orders,
    /// Accounts of users.
    pub accounts: Accounts,
    /// Where jobs are looked after.
    pub jobs: JobDesk,
    /// Publishes events.
    pub publisher: Publisher,
    /// What every request passes, and the limits.
    pub gate: Arc<Gate>,
    /// Who may not connect.
    pub blocks: Arc<Blocks>,
    /// The worker threads.
    pub workers: Arc<Workers>,
    /// The engine's metrics.
    pub metrics: Arc<Metrics>,
    /// Set when the node no longer takes new sessions.
    pub draining: Arc<AtomicBool>,
    /// Numbers connections.
    pub connections: Arc<AtomicU64>,
}

impl Services {
    /// Whether the node no longer takes new sessions.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Has sessions judged again that hear declared topics which have changed.
    pub fn recheck_topics(&self) {
        let changed = self.topics.take_changed();
        if !changed.is_empty() {
            self.workers.recheck(changed);
        }
    }

    /// The next connection's number: greater than any before, those of other nodes included as far as the log's
    /// clock tells.
    pub fn next_connection(&self) -> u64 {
        let now = self.log.clock().steady().micros() as u64;
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.expect("there is always a next one") + 1)
    }

    /// Ends the older connections of a ticket, whichever node has them.
    pub fn replace_ticket(&self, ticket_id: &Arc<str>, newer: u64) {
        self.workers.replace_ticket(ticket_id, newer);
        self.log.announce(NodeNotice::TicketReplaced { ticket_id: ticket_id.clone(), newer });
    }
}

/// The engine's services, which every request carries.
pub(super) fn services(request: &HttpRequest) -> &Services {
    request.app_data::<web::Data<Services>>().expect("set by the engine")
}
