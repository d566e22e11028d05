use std::collections::HashSet;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::{Notify, oneshot};

use crate::domain::{Position, TenantId, Topic};
use crate::log::{LogObserver, NodeNotice, TenantLog};
use crate::rooms::ConnectionId;
use crate::wire::Event;

/// A session that is told what this node computes.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Where its user is told things, and for which carriers; None: nowhere.
    pub user: Option<(Topic, Vec<Arc<str>>)>,
    /// The bids whose whole ranking it is told.
    pub whole: Vec<Arc<str>>,
    /// Whether it asks for what it is owed before it ends.
    pub is_poll: bool,
}

impl Listener {
    /// Whether it is told nothing.
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.whole.is_empty()
    }

    pub(super) fn carriers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.user.iter().flat_map(|(_, carriers)| carriers)
    }
}

/// What a long-poll is owed when it is answered; told when nobody adds to it any more.
#[derive(Debug)]
pub struct Owed {
    topic: Topic,
    events: Mutex<Vec<Arc<Event>>>,
    reply: Mutex<Option<oneshot::Sender<Vec<Arc<Event>>>>>,
}

impl Owed {
    pub(super) fn new(topic: Topic, reply: oneshot::Sender<Vec<Arc<Event>>>) -> Arc<Self> {
        Arc::new(Owed { topic, events: Mutex::default(), reply: Mutex::new(Some(reply)) })
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.reply.lock().expect("no panic while held").as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    pub(super) fn add(&self, event: Arc<Event>) {
        self.events.lock().expect("no panic while held").push(event);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let (Ok(events), Ok(reply)) = (self.events.get_mut(), self.reply.get_mut()) else { return };
        if let Some(reply) = reply.take() {
            // whoever asked may have gone
            let _ = reply.send(std::mem::take(events));
        }
    }
}

/// What sessions say.
#[derive(Debug)]
pub(super) enum Said {
    /// One is told this from now on; `afresh`: it has just gone live, and is told how everything stands.
    Listens { id: ConnectionId, listener: Listener, afresh: bool },
    /// One has ended.
    Left(ConnectionId),
    /// One that polls wants what it has not been told of all that has happened since.
    Owes { id: ConnectionId, since: Option<Position>, reply: oneshot::Sender<Vec<Arc<Event>>> },
}

/// What waits for the keeper.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub advanced: HashSet<TenantId>,
    pub said: Vec<(TenantId, Said)>,
}

/// Where sessions and the log say what concerns the node's copies of rankings.
#[derive(Clone, Debug, Default)]
pub struct Copies(Arc<Inbox>);

#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Whose logs are followed.
    tenants: RwLock<HashSet<TenantId>>,
}

impl Copies {
    /// A session is told this from now on; `afresh`: it has just gone live, and is told how everything stands.
    pub fn listens(&self, tenant: &TenantId, id: ConnectionId, listener: Listener, afresh: bool) {
        self.say(tenant, Said::Listens { id, listener, afresh });
    }

    /// A session that listened has ended.
    pub fn left(&self, tenant: &TenantId, id: ConnectionId) {
        self.say(tenant, Said::Left(id));
    }

    /// What a session that polls has not been told of all that has happened since a position.
    pub async fn owed(
        &self,
        tenant: &TenantId,
        id: ConnectionId,
        since: Option<Position>,
    ) -> Vec<Arc<Event>> {
        let (reply, owed) = oneshot::channel();
        self.say(tenant, Said::Owes { id, since, reply });
        owed.await.unwrap_or_default()
    }

    fn say(&self, tenant: &TenantId, said: Said) {
        self.0.waiting.lock().expect("no panic while held").said.push((tenant.clone(), said));
        self.0.wake.notify_one();
    }

    /// What waits; the log comes before what sessions say, which may refer to it.
    pub(super) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.0.waiting.lock().expect("no panic while held"))
    }

    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// A tenant's log is followed from now on.
    pub(super) fn follow(&self, tenant: &TenantId) {
        self.0.tenants.write().expect("no panic while held").insert(tenant.clone());
    }

    /// A tenant's log is followed no more.
    pub(super) fn unfollow(&self, tenant: &TenantId) {
        self.0.tenants.write().expect("no panic while held").remove(tenant);
    }
}

impl LogObserver for Copies {
    fn advanced(&self, log: &Arc<TenantLog>) {
        if !self.0.tenants.read().expect("no panic while held").contains(log.tenant()) {
            return;
        }
        self.0.waiting.lock().expect("no panic while held").advanced.insert(log.tenant().clone());
        self.0.wake.notify_one();
    }

    fn renewed(&self, log: &Arc<TenantLog>) {
        self.advanced(log);
    }

    fn lost(&self, _: &TenantId) {
        // its sessions come back, and say so
    }

    fn announced(&self, _: &NodeNotice) {}

    fn volatile(&self, _: &Arc<TenantLog>, _: Arc<Event>) {}
}
