use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::token::refused;
use super::{Credentials, KeyRing, Principal, Revoked};
use crate::clock::Clock;
use crate::domain::{Refusal, TenantId, Timestamp, UserSub};
use crate::storage::{Database, Feed, StoreError};
use crate::wire::CloseCode;

/// The one feed of what is no longer good: keys, tickets and kicked users, as every node reads it.
#[derive(Debug)]
pub struct Revocations {
    database: Database,
    keys: Arc<KeyRing>,
    clock: Clock,
    generation: AtomicI64,
    state: RwLock<State>,
    /// Noticed since [`Revocations::take`] was last asked, whoever noticed; of keys, the ring keeps count.
    fresh: Mutex<Revoked>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Keys aside: those in force are in the ring.
    all: Revoked,
    /// When each revoked ticket would have expired: then it need not be remembered.
    tickets_until: HashMap<Arc<str>, Timestamp>,
}

impl Revocations {
    /// Loads all that counts.
    pub async fn load(database: Database, keys: Arc<KeyRing>, clock: Clock) -> Result<Self, StoreError> {
        let own = Revocations {
            database,
            keys,
            clock,
            generation: AtomicI64::new(-1),
            state: RwLock::default(),
            fresh: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        own.refresh().await?;
        Ok(own)
    }

    /// The keys in force.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Looks whether anything has changed.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        self.keys.refresh().await?;
        let _one_at_a_time = self.refreshing.lock().await;
        let known = self.generation.load(Ordering::Acquire);
        let read = self.database.run(move |db| async move {
            crate::read!(db, |conn, q| {
                let generation = q::generations::of(conn, Feed::Revocations).await?;
                if generation == known {
                    return Ok(None);
                }
                let kicks = q::kicks::since(conn, known).await?;
                Ok(Some((generation, kicks, q::tickets::revoked_since(conn, known).await?)))
            })
        });
        let Some((generation, kicks, tickets)) = read.await? else { return Ok(()) };
        let mut news = Revoked::default();
        for row in kicks {
            if let (Ok(tenant), Ok(sub)) = (TenantId::parse(&row.tenant), UserSub::parse(&row.sub)) {
                news.kicked.insert((tenant, sub), Timestamp::from_micros(row.not_before_us));
            }
        }
        let tickets = tickets.into_iter().map(|(id, until)| (Arc::from(id), Timestamp::from_micros(until)));
        let tickets: HashMap<Arc<str>, Timestamp> = tickets.collect();
        news.tickets.extend(tickets.keys().cloned());
        let now = self.clock.steady();
        let mut state = self.state.write().expect("no panic while held");
        state.tickets_until.extend(tickets);
        state.tickets_until.retain(|_, until| *until > now);
        state.all.tickets = state.tickets_until.keys().cloned().collect();
        state.all.kicked.extend(news.kicked.clone());
        let mut fresh = self.fresh.lock().expect("no panic while held");
        fresh.tickets.extend(news.tickets);
        fresh.kicked.extend(news.kicked);
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// What was noticed since this was last asked: its sessions have to end.
    pub fn take(&self) -> Revoked {
        let mut news = std::mem::take(&mut *self.fresh.lock().expect("no panic while held"));
        news.keys = self.keys.take_revoked();
        news
    }

    /// How a session ends that lives by these credentials; None while all of them are good.
    pub fn end_of(&self, tenant: &TenantId, credentials: &Credentials) -> Option<CloseCode> {
        if credentials.key_id.as_ref().is_some_and(|key_id| self.keys.by_id(key_id).is_none()) {
            return Some(CloseCode::Unauthenticated);
        }
        self.state.read().expect("no panic while held").all.end_of(tenant, credentials)
    }

    /// Refuses a principal whose token or ticket is no longer good.
    pub fn check(&self, principal: &Principal) -> Result<(), Refusal> {
        let Some(tenant) = &principal.tenant else { return Ok(()) };
        match self.end_of(tenant, &principal.credentials()) {
            None => Ok(()),
            Some(CloseCode::Forbidden) => {
                Err(refused("kicked", "the user was removed after this was issued: sign in again"))
            }
            Some(_) => Err(refused("revoked", "the key or ticket was revoked")),
        }
    }

    /// Removes a user: its sessions end within a second, and no token or ticket of it that was issued up to
    /// now is good any more. Returns that moment.
    pub async fn kick(&self, tenant: &TenantId, sub: &UserSub) -> Result<Timestamp, StoreError> {
        let (tenant, sub) = (tenant.as_str().to_owned(), sub.as_str().to_owned());
        let now = self.clock.now().micros();
        let kicked = self.database.run(move |db| async move {
            crate::write_tx!(db, |conn, q| Ok(q::kicks::kick(conn, &tenant, &sub, now).await?))
        });
        let row = kicked.await?;
        self.refresh().await?;
        Ok(Timestamp::from_micros(row.not_before_us))
    }
}
