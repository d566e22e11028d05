use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::room_registry_actor::{ListConnections, Order, WorkerMail};
use super::{Connection, ConnectionId};
use crate::actor_kit::Probe;
use crate::domain::{TenantId, Topic};
use crate::identity::Revoked;
use crate::limits::Blocks;
use crate::log::{LogObserver, NodeNotice, TenantLog};
use crate::wire::Event;

/// Every worker thread of an engine, as the rest of it reaches them.
#[derive(Debug, Default)]
pub struct Workers(RwLock<Vec<Arc<WorkerMail>>>);

impl Workers {
    /// A worker has started.
    pub fn add(&self, mail: Arc<WorkerMail>) {
        self.0.write().expect("no panic while held").push(mail);
    }

    /// Ends every session that lives by any of this.
    pub fn revoke(&self, revoked: Revoked) {
        self.order(&Order::Revoke(Arc::new(revoked)));
    }

    /// Has the sessions that hear any of these topics judged again.
    pub fn recheck(&self, topics: HashSet<(TenantId, Topic)>) {
        self.order(&Order::Recheck(Arc::new(topics)));
    }

    /// Ends older sessions of a ticket.
    pub fn replace_ticket(&self, ticket_id: &Arc<str>, newer: u64) {
        self.order(&Order::ReplaceTicket { ticket_id: ticket_id.clone(), newer });
    }

    /// Ends every session from an address that is blocked.
    pub fn end_blocked(&self, blocks: &Arc<Blocks>) {
        self.order(&Order::EndBlocked(blocks.clone()));
    }

    /// Gives an event that was computed here to these sessions of a tenant, or to all that hear its topic.
    pub fn tell(&self, tenant: &TenantId, event: Arc<Event>, to: Option<Arc<[ConnectionId]>>) {
        self.order(&Order::Tell { tenant: tenant.clone(), event, to });
    }

    /// Ends all sessions at an even pace within this time.
    pub fn drain(&self, within: Duration) {
        self.order(&Order::Drain(within));
    }

    /// Sessions of all workers.
    pub fn sessions(&self) -> usize {
        self.all().iter().map(|mail| mail.sessions()).sum()
    }

    /// The first `limit` sessions of a tenant after a connection's number, by number.
    pub async fn connections(&self, tenant: &TenantId, after: ConnectionId, limit: usize) -> Vec<Connection> {
        let mut all = Vec::new();
        for mail in self.all() {
            let list = ListConnections { tenant: tenant.clone(), after, limit };
            all.extend(mail.ask(list).await.unwrap_or_default());
        }
        all.sort_unstable_by_key(|connection| connection.id);
        all.truncate(limit);
        all
    }

    /// Whether every worker's event loop turns: answers within `patience`.
    pub async fn answer(&self, patience: Duration) -> bool {
        for mail in self.all() {
            if !matches!(tokio::time::timeout(patience, mail.ask(Probe)).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    fn all(&self) -> Vec<Arc<WorkerMail>> {
        self.0.read().expect("no panic while held").clone()
    }

    fn order(&self, order: &Order) {
        self.each(|mail| mail.order(order.clone()));
    }

    fn each(&self, tell: impl Fn(&WorkerMail)) {
        self.0.read().expect("no panic while held").iter().for_each(|mail| tell(mail));
    }
}

/// The time in which sessions are drained: few end sooner, 1000 a second, but all within the time there is.
pub fn pace(sessions: usize, at_most: Duration) -> Duration {
    Duration::from_millis(sessions as u64).min(at_most)
}

impl LogObserver for Workers {
    fn advanced(&self, log: &Arc<TenantLog>) {
        self.each(|mail| mail.advanced(log));
    }

    fn renewed(&self, log: &Arc<TenantLog>) {
        self.order(&Order::Renew(log.clone()));
    }

    fn announced(&self, notice: &NodeNotice) {
        self.each(|mail| mail.announced(notice));
    }

    fn lost(&self, tenant: &TenantId) {
        self.order(&Order::Lose(tenant.clone()));
    }

    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>) {
        self.each(|mail| mail.volatile(log, event.clone()));
    }
}
