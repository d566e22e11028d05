use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::tickets::is_ticket;
use super::token::looks_like_token;
use super::{Principal, Scopes, User};
use crate::clock::Clock;
use crate::domain::{TenantId, UserSub};
use crate::storage::{ApiKeyRow, Database, Feed, StoreError};

/// 32 random bytes as text, behind a prefix that tells what it is.
pub fn new_secret(prefix: &str) -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives randomness");
    format!("{prefix}{}", hex(&bytes))
}

/// SHA-256 in hexadecimal: what is stored of a secret, and what a request is recognised by.
pub fn hash_hex(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// None for an operator's key.
    pub tenant: Option<TenantId>,
    /// What it is for.
    pub scopes: Scopes,
    /// Binds it to a user.
    pub sub: Option<UserSub>,
    /// Generated for a first start, not to be served to the outside.
    pub development: bool,
}

/// Makes a key and stores its hash; the key itself is returned once and kept nowhere.
pub async fn create_key(
    database: &Database,
    clock: Clock,
    new: NewKey,
) -> Result<(String, ApiKeyRow), StoreError> {
    let secret = new_secret("bk_");
    let row = store(database, clock, new, &secret).await?;
    Ok((secret, row))
}

/// Why a text cannot be imported as a key.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be sent in a header, or it could be guessed.
    #[error("a key must be 16-512 visible ASCII characters without spaces")]
    Malformed,
    /// Where both are allowed, it would be taken for a token or a ticket.
    #[error("the key looks like a token (JWT) or a ticket: it could not be told from one")]
    Token,
    /// Its hash is stored already, perhaps revoked.
    #[error("the key is known already")]
    Known,
    /// The database.
    #[error(transparent)]
    Store(StoreError),
}

/// Stores the hash of a key that was made elsewhere.
pub async fn import_key(
    database: &Database,
    clock: Clock,
    new: NewKey,
    secret: &str,
) -> Result<ApiKeyRow, ImportError> {
    if !(16..=512).contains(&secret.len()) || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ImportError::Malformed);
    }
    if looks_like_token(secret) || is_ticket(secret) {
        return Err(ImportError::Token);
    }
    store(database, clock, new, secret).await.map_err(|error| match error {
        StoreError::Exists => ImportError::Known,
        error => ImportError::Store(error),
    })
}

async fn store(
    database: &Database,
    clock: Clock,
    new: NewKey,
    secret: &str,
) -> Result<ApiKeyRow, StoreError> {
    let row = ApiKeyRow {
        key_id: uuid::Uuid::now_v7().to_string(),
        hash: hash_hex(secret.as_bytes()),
        tenant: new.tenant.map_or(String::new(), |tenant| tenant.as_str().to_owned()),
        scopes: new.scopes.to_string(),
        sub: new.sub.map(|sub| sub.as_str().to_owned()),
        development: new.development,
        created_us: clock.now().micros(),
        revoked_us: None,
    };
    let stored = row.clone();
    database
        .run(move |db| async move {
            crate::write_tx!(db, |conn, q| {
                q::api_keys::insert(conn, &stored).await?;
                Ok(())
            })
        })
        .await?;
    Ok(row)
}

#[derive(Debug, Default)]
struct Ring {
    by_hash: HashMap<String, Arc<ApiKeyRow>>,
    by_id: HashMap<String, Arc<ApiKeyRow>>,
    /// Keys ever made, revoked ones included.
    made: usize,
}

/// The keys in force, held in memory and refreshed when their generation in the database changes.
#[derive(Debug)]
pub struct KeyRing {
    database: Database,
    ring: RwLock<Ring>,
    generation: AtomicI64,
    /// Revoked since [`KeyRing::take_revoked`] was last asked, whoever noticed.
    revoked: Mutex<HashSet<Arc<str>>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl KeyRing {
    /// Loads all keys.
    pub async fn load(database: Database) -> Result<Self, StoreError> {
        let ring = KeyRing {
            database,
            ring: RwLock::default(),
            generation: AtomicI64::new(-1),
            revoked: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        ring.refresh().await?;
        Ok(ring)
    }

    /// Looks whether keys have changed.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let known = self.generation.load(Ordering::Acquire);
        let read = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| {
                    let generation = q::generations::of(conn, Feed::Keys).await?;
                    let rows = if generation == known { Vec::new() } else { q::api_keys::all(conn).await? };
                    Ok((generation, rows))
                })
            })
            .await?;
        if read.0 == known {
            return Ok(());
        }
        let mut fresh = Ring { made: read.1.len(), ..Ring::default() };
        for row in read.1.into_iter().filter(|row| row.revoked_us.is_none()).map(Arc::new) {
            fresh.by_hash.insert(row.hash.clone(), row.clone());
            fresh.by_id.insert(row.key_id.clone(), row);
        }
        let mut ring = self.ring.write().expect("no panic while held");
        let gone = ring.by_id.keys().filter(|id| !fresh.by_id.contains_key(*id));
        let gone = gone.map(|id| Arc::from(id.as_str()));
        self.revoked.lock().expect("no panic while held").extend(gone);
        *ring = fresh;
        self.generation.store(read.0, Ordering::Release);
        Ok(())
    }

    /// The keys revoked since this was last asked: their sessions have to end.
    pub fn take_revoked(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut *self.revoked.lock().expect("no panic while held"))
    }

    /// Whose key this is; a key made a moment ago by another process is found too.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Principal>, StoreError> {
        let hash = hash_hex(secret.as_bytes());
        if let Some(principal) = self.by_hash(&hash) {
            return Ok(Some(principal));
        }
        // a wrong key costs one small read, shared by all that are wrong at this moment
        self.refresh().await?;
        Ok(self.by_hash(&hash))
    }

    /// The principal of a key that is still in force.
    pub fn by_id(&self, key_id: &str) -> Option<Principal> {
        self.ring.read().expect("no panic while held").by_id.get(key_id).and_then(|row| principal(row))
    }

    /// The ids of keys in force that were generated for a first start.
    pub fn development_key_ids(&self) -> Vec<String> {
        let ring = self.ring.read().expect("no panic while held");
        ring.by_id.values().filter(|row| row.development).map(|row| row.key_id.clone()).collect()
    }

    /// Whether no key was ever made.
    pub fn is_empty(&self) -> bool {
        self.ring.read().expect("no panic while held").made == 0
    }

    fn by_hash(&self, hash: &str) -> Option<Principal> {
        self.ring.read().expect("no panic while held").by_hash.get(hash).and_then(|row| principal(row))
    }
}

fn principal(row: &ApiKeyRow) -> Option<Principal> {
    let tenant = match row.tenant.as_str() {
        "" => None,
        tenant => Some(TenantId::parse(tenant).ok()?),
    };
    let sub = row.sub.as_deref().map(UserSub::parse).transpose().ok()?;
    Some(Principal {
        tenant,
        key_id: Some(row.key_id.as_str().into()),
        scopes: Scopes::parse(&row.scopes).ok()?,
        user: sub.map(User::plain),
        ticket_id: None,
        ticket_topics: None,
        issued_at: None,
        expires_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_hashes_are_sha_256() {
        assert_eq!(new_secret("bk_").len(), 3 + 64);
        assert_ne!(new_secret(""), new_secret(""));
        assert_eq!(hash_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
