use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, RwLock};

use ipnet::IpNet;

use super::address::parse_network;
use super::block_list::BlockList;
use crate::clock::Clock;
use crate::domain::{Refusal, RefusalKind, Timestamp};
use crate::storage::{BlockRow, Database, Feed, StoreError};
use crate::telemetry::Metrics;

/// Networks that may be on the list at run time.
const MAX_STORED: i64 = 100_000;

#[derive(Debug, Default)]
struct Lists {
    file: BlockList,
    stored: BlockList,
}

/// The block list in force: a file's and the database's, which all nodes share.
///
/// The database's half is held in memory and refreshed when its generation changes, as API keys are.
#[derive(Debug)]
pub struct Blocks {
    database: Database,
    clock: Clock,
    metrics: Arc<Metrics>,
    lists: RwLock<Arc<Lists>>,
    generation: AtomicI64,
    /// Set since [`Blocks::take_changed`] was last asked.
    changed: AtomicBool,
    refreshing: tokio::sync::Mutex<()>,
}

impl Blocks {
    /// Loads what the database holds.
    pub async fn load(database: Database, clock: Clock, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let blocks = Blocks {
            database,
            clock,
            metrics,
            lists: RwLock::default(),
            generation: AtomicI64::new(-1),
            changed: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::default(),
        };
        blocks.refresh().await?;
        Ok(blocks)
    }

    /// Whether an address may not connect at this moment.
    pub fn is_blocked(&self, address: IpAddr) -> bool {
        let (lists, now) = (self.lists(), self.clock.steady());
        lists.file.is_blocked(address, now) || lists.stored.is_blocked(address, now)
    }

    /// Takes the networks of a file in the place of those it held before; none for an empty path. What cannot be
    /// read changes nothing.
    pub fn read_file(&self, path: &str) -> Result<(), String> {
        let file = match path {
            "" => BlockList::default(),
            path => {
                let text =
                    std::fs::read_to_string(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
                BlockList::read(&text)
                    .map_err(|entry| format!("{path}: {entry:?} is no address or network"))?
            }
        };
        self.set(|lists| Lists { file, stored: lists.stored.clone() });
        Ok(())
    }

    /// Looks whether the database's list has changed.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let (known, now) = (self.generation.load(Ordering::Acquire), self.clock.steady().micros());
        let (generation, rows) = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| {
                    let generation = q::generations::of(conn, Feed::BlockList).await?;
                    let unchanged = generation == known;
                    let rows = if unchanged {
                        Vec::new()
                    } else {
                        q::block_list::page(conn, "", now, i64::MAX).await?
                    };
                    Ok((generation, rows))
                })
            })
            .await?;
        if generation == known {
            return Ok(());
        }
        let mut stored = BlockList::default();
        for row in rows {
            match parse_network(&row.cidr) {
                Some(network) => stored.add(network, row.expires_us.map(Timestamp::from_micros)),
                None => tracing::error!(cidr = row.cidr, "the block list holds what is no network"),
            }
        }
        self.set(|lists| Lists { file: lists.file.clone(), stored });
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// Whether the list has changed since this was last asked: then sessions have to be looked at.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Blocks a network on all nodes; an entry for the same one is replaced.
    pub async fn block(
        &self,
        network: IpNet,
        until: Option<Timestamp>,
        reason: Option<String>,
    ) -> Result<BlockRow, Refusal> {
        let now = self.clock.steady();
        let row = BlockRow {
            cidr: network.to_string(),
            reason,
            created_us: now.micros(),
            expires_us: until.map(Timestamp::micros),
        };
        let stored = row.clone();
        let is_full = self
            .database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    if q::block_list::count(conn).await? >= MAX_STORED {
                        return Ok(true);
                    }
                    q::block_list::put(conn, &stored).await?;
                    Ok(false)
                })
            })
            .await?;
        if is_full {
            let detail = format!("the block list holds {MAX_STORED} networks already");
            return Err(Refusal::new(RefusalKind::Conflict, "block_list_full", detail));
        }
        self.refresh().await?;
        Ok(row)
    }

    /// Takes a network off the database's list; whether it was on it.
    pub async fn unblock(&self, network: IpNet) -> Result<bool, StoreError> {
        let cidr = network.to_string();
        let removed = self
            .database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| Ok(q::block_list::remove(conn, &cidr).await?))
            })
            .await?;
        self.refresh().await?;
        Ok(removed)
    }

    /// Up to `limit` entries of the database's list after a network's text.
    pub async fn page(&self, after: String, limit: usize) -> Result<Vec<BlockRow>, StoreError> {
        let (now, limit) = (self.clock.steady().micros(), limit as i64);
        self.database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(q::block_list::page(conn, &after, now, limit).await?))
            })
            .await
    }

    /// Networks of the file.
    pub fn in_file(&self) -> usize {
        self.lists().file.len()
    }

    fn lists(&self) -> Arc<Lists> {
        self.lists.read().expect("no panic while held").clone()
    }

    fn set(&self, change: impl FnOnce(&Lists) -> Lists) {
        let mut lists = self.lists.write().expect("no panic while held");
        *lists = Arc::new(change(&lists));
        self.metrics.limits().blocked_networks(lists.file.len() + lists.stored.len());
        self.changed.store(true, Ordering::Release);
    }
}
