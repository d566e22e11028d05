use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::time::timeout;

use super::created::created_row;
use super::entities::{Knowledge, needed};
use super::look::look;
use super::{Entities, MOST_ENTITIES, Membership, judge};
use crate::clock::Clock;
use crate::domain::{
    EntityId, Position, Refusal, RefusalKind, Selector, TenantId, Topic, TopicKind, UserSub,
};
use crate::identity::Principal;
use crate::log::EventLog;
use crate::sessions::Grant;
use crate::storage::{Database, DeclaredTopicRow, Feed, OutboxRow, StoreError, TopicMemberRow};

/// How long a subscription waits for what other nodes may have declared, and for what entities say.
const FRESHENING: Duration = Duration::from_millis(500);

/// A declared topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Whether it is for its members only.
    pub membership: bool,
    /// How many members it has.
    pub members: u64,
    /// Whether this very request declared it.
    pub is_new: bool,
}

/// Declared topics and entities: who may hear them, as every node reads it.
#[derive(Clone)]
pub struct Topics(Arc<Inner>);

struct Inner {
    database: Database,
    log: EventLog,
    clock: Clock,
    generation: AtomicI64,
    index: RwLock<Membership>,
    entities: Arc<Entities>,
    /// Topics that have changed since [`Topics::take_changed`] was last asked, whoever noticed.
    changed: Mutex<HashSet<(TenantId, Topic)>>,
    refreshing: tokio::sync::Mutex<()>,
    /// Looks begun so far, and the number of the last one that came to its end.
    looks: AtomicU64,
    looked: AtomicU64,
}

impl Topics {
    /// Loads all declared topics, and from now on is told by the log of new entities.
    pub async fn load(database: Database, log: EventLog) -> Result<Self, StoreError> {
        let entities = Arc::new(Entities::new(MOST_ENTITIES));
        let told = entities.clone();
        log.on_created(Box::new(move |tenant, created| told.learn(tenant, created)));
        let own = Topics(Arc::new(Inner {
            clock: log.clock(),
            database,
            log,
            generation: AtomicI64::new(-1),
            index: RwLock::default(),
            entities,
            changed: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            looks: AtomicU64::default(),
            looked: AtomicU64::default(),
        }));
        own.refresh().await?;
        own.take_changed();
        Ok(own)
    }

    /// Looks whether anything has changed; those who ask at once share a look that begins after they asked.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let own = &self.0;
        let asked = own.looks.load(Ordering::Acquire);
        let _one_at_a_time = own.refreshing.lock().await;
        if own.looked.load(Ordering::Acquire) > asked {
            return Ok(());
        }
        let look = own.looks.fetch_add(1, Ordering::AcqRel) + 1;
        self.look().await?;
        own.looked.store(look, Ordering::Release);
        Ok(())
    }

    /// Whether [`Topics::freshen`] has anything to do.
    pub fn is_stale(&self, principal: &Principal, selectors: &[Selector]) -> bool {
        self.declares(principal, selectors) || !self.unseen(principal, selectors).is_empty()
    }

    /// Makes sure that a subscription to these is judged by what entities say, and, where other nodes declare
    /// topics, too, by what they have declared before it. While the store is away declared topics are judged by
    /// what is known, and of entities nobody is given too much.
    pub async fn freshen(&self, principal: &Principal, selectors: &[Selector]) {
        let refreshed = async {
            match self.declares(principal, selectors) {
                true => timeout(FRESHENING, self.refresh()).await.unwrap_or_else(|_| Err(late())),
                false => Ok(()),
            }
        };
        let (refreshed, ()) = tokio::join!(refreshed, self.look_again(principal, selectors));
        if let Err(error) = refreshed {
            tracing::debug!(%error, "declared topics could not be looked up");
        }
    }

    /// Whether other nodes may have declared any of these, and it matters to this principal.
    fn declares(&self, principal: &Principal, selectors: &[Selector]) -> bool {
        let is_named = |own: &Selector| own.room().is_some_and(|room| room.kind() == TopicKind::Named);
        // services are not judged by members
        self.0.log.is_shared() && principal.user.is_some() && selectors.iter().any(is_named)
    }

    /// The entities that decide about these, as far as they are not known to be there.
    pub fn unseen(&self, principal: &Principal, selectors: &[Selector]) -> Vec<Topic> {
        let Some(tenant) = &principal.tenant else { return Vec::new() };
        let asked = selectors.iter().filter_map(|selector| needed(principal, selector));
        let is_known = |own: &Topic| matches!(self.0.entities.known(tenant, own), Knowledge::Facts(_));
        asked.filter(|entity| !is_known(entity)).collect()
    }

    /// Looks those up, within a bounded time. What could not be looked up is not known.
    pub async fn look_again(&self, principal: &Principal, selectors: &[Selector]) {
        let (asked, Some(tenant)) = (self.unseen(principal, selectors), &principal.tenant) else { return };
        if asked.is_empty() {
            return;
        }
        let looked = timeout(FRESHENING, self.look_at(tenant, asked.clone())).await;
        if let Err(error) = looked.unwrap_or_else(|_| Err(late())) {
            tracing::debug!(%error, "entities could not be looked up");
            self.0.entities.failed(tenant, asked);
        }
    }

    async fn look_at(&self, tenant: &TenantId, asked: Vec<Topic>) -> Result<(), StoreError> {
        let found = look(&self.0.database, tenant, &asked).await?;
        self.0.entities.looked(tenant, asked, found);
        Ok(())
    }

    /// Looks up whatever a principal's subscriptions to these are judged by, or fails.
    pub async fn renew(&self, principal: &Principal, selectors: &[Selector]) -> Result<(), StoreError> {
        self.refresh().await?;
        match &principal.tenant {
            Some(tenant) => self.look_at(tenant, self.unseen(principal, selectors)).await,
            None => Ok(()),
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let own = &self.0;
        let known = own.generation.load(Ordering::Acquire);
        let read = own.database.run(move |db| async move {
            crate::read!(db, |conn, q| {
                let generation = q::generations::of(conn, Feed::Topics).await?;
                if generation == known {
                    return Ok(None);
                }
                let topics = q::topics::since(conn, known).await?;
                Ok(Some((generation, topics, q::topics::members_since(conn, known).await?)))
            })
        });
        let Some((generation, topics, members)) = read.await? else { return Ok(()) };
        let mut index = own.index.write().expect("no panic while held");
        let mut changed = own.changed.lock().expect("no panic while held");
        for row in topics {
            let (tenant, topic) = named(&row.tenant, &row.name)?;
            index.declare(&tenant, &row.name, row.membership);
            changed.insert((tenant, topic));
        }
        for row in members {
            let (tenant, topic) = named(&row.tenant, &row.name)?;
            let since = row.since.as_deref().map(str::parse).transpose().map_err(unexpected)?;
            index.set_member(&tenant, &row.name, &UserSub::parse(&row.sub).map_err(unexpected)?, since);
            changed.insert((tenant, topic));
        }
        own.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// The topics that were declared, or whose members changed, since this was last asked: what sessions may
    /// hear of them has to be judged again.
    pub fn take_changed(&self) -> HashSet<(TenantId, Topic)> {
        std::mem::take(&mut *self.0.changed.lock().expect("no panic while held"))
    }

    /// What a principal gets of a topic or prefix as things stand on this node, or the code of the refusal; at
    /// a subscription, and again whenever something has changed.
    pub fn grant(&self, principal: &Principal, selector: &Selector) -> Result<Grant, &'static str> {
        let known = |entity: &Topic| match &principal.tenant {
            Some(tenant) => self.0.entities.known(tenant, entity),
            None => Knowledge::Unknown,
        };
        judge(principal, selector, &self.0.index.read().expect("no panic while held"), known)
    }

    /// Declares a topic to be for its members only, or for everybody.
    pub async fn declare(
        &self,
        tenant: &TenantId,
        name: &EntityId,
        membership: bool,
    ) -> Result<Declared, Refusal> {
        let now = self.0.clock.now();
        let (own_tenant, own_name) = (tenant.as_str().to_owned(), name.as_str().to_owned());
        let created = created_row(tenant, &Topic::of(TopicKind::Named, name), "{}".to_owned(), now);
        let row = created.clone();
        let written = self.0.database.run(move |db| async move {
            crate::write_tx!(db, |conn, q| {
                let generation = q::generations::advance(conn, Feed::Topics).await?;
                let before = q::topics::find(conn, &own_tenant, &own_name).await?;
                let is_new = before.is_none();
                let id = match is_new {
                    true => Some(q::outbox::insert(conn, &created).await?),
                    false => None,
                };
                let created_us = before.map_or(now.micros(), |before| before.created_us);
                let members = q::topics::count_members(conn, &own_tenant, &own_name).await?;
                let row = DeclaredTopicRow {
                    tenant: own_tenant,
                    name: own_name,
                    membership,
                    created_us,
                    generation,
                };
                q::topics::save(conn, &row).await?;
                Ok((Declared { membership, members: members as u64, is_new }, id))
            })
        });
        let (declared, id) = written.await?;
        if let Some(id) = id {
            // what is published once this is answered comes after it, at whichever node
            self.0.log.hasten(OutboxRow { id, ..row }).await;
        }
        // before anybody hears of it
        self.refresh().await?;
        self.0.log.wake_relay();
        Ok(declared)
    }

    /// Makes users members from now on, or takes membership from them; with it the head of the log at the
    /// grant.
    pub async fn change_members(
        &self,
        tenant: &TenantId,
        name: &EntityId,
        users: Vec<UserSub>,
        is_grant: bool,
    ) -> Result<(Declared, Position), Refusal> {
        // before the grant is there: nothing that comes after it is withheld
        let head = self.0.log.top(tenant).await?;
        let (tenant, name) = (tenant.as_str().to_owned(), name.as_str().to_owned());
        let changed = self.0.database.run(move |db| async move {
            crate::write_tx!(db, |conn, q| {
                let Some(topic) = q::topics::find(conn, &tenant, &name).await? else {
                    return Ok(None);
                };
                let generation = q::generations::advance(conn, Feed::Topics).await?;
                let subs = users.iter().map(|sub| sub.as_str().to_owned());
                match is_grant {
                    true => {
                        let rows = subs.map(|sub| TopicMemberRow {
                            tenant: tenant.clone(),
                            name: name.clone(),
                            sub,
                            since: Some(head.to_string()),
                            generation,
                        });
                        q::topics::grant(conn, &rows.collect::<Vec<_>>()).await?;
                    }
                    false => {
                        let subs: Vec<String> = subs.collect();
                        q::topics::withdraw(conn, &tenant, &name, &subs, generation).await?;
                    }
                }
                let members = q::topics::count_members(conn, &tenant, &name).await? as u64;
                Ok(Some(Declared { membership: topic.membership, members, is_new: false }))
            })
        });
        let declared = changed.await?.ok_or_else(undeclared)?;
        self.refresh().await?;
        Ok((declared, head))
    }

    /// A declared topic, and its members by user after the one named, with the position each is one from.
    pub async fn find(
        &self,
        tenant: &TenantId,
        name: &EntityId,
        after: &str,
        limit: usize,
    ) -> Result<(Declared, Vec<(String, String)>), Refusal> {
        let (tenant, name, after) = (tenant.as_str().to_owned(), name.as_str().to_owned(), after.to_owned());
        let found = self.0.database.run(move |db| async move {
            crate::read!(db, |conn, q| {
                let Some(topic) = q::topics::find(conn, &tenant, &name).await? else {
                    return Ok(None);
                };
                let members = q::topics::count_members(conn, &tenant, &name).await? as u64;
                let rows = q::topics::members(conn, &tenant, &name, &after, limit as i64).await?;
                let rows = rows.into_iter().filter_map(|row| Some((row.sub, row.since?))).collect();
                Ok(Some((Declared { membership: topic.membership, members, is_new: false }, rows)))
            })
        });
        found.await?.ok_or_else(undeclared)
    }
}

fn named(tenant: &str, name: &str) -> Result<(TenantId, Topic), StoreError> {
    let name = EntityId::parse(name).map_err(unexpected)?;
    Ok((TenantId::parse(tenant).map_err(unexpected)?, Topic::of(TopicKind::Named, &name)))
}

fn unexpected(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unexpected(error.to_string())
}

fn late() -> StoreError {
    StoreError::Unavailable("not in time".to_owned())
}

fn undeclared() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_topic", "the topic was never declared: it is for everybody")
}
