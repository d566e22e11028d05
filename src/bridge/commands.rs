use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation, Value,
    from_redis_value,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::error::BridgeError;
use super::servers::{Connector, Layout, Lookout, Server};
use crate::clock::jittered;
use crate::telemetry::{BridgeMetrics, InteropMetrics, Metrics};

/// How often an idle link is tried.
const PING: Duration = Duration::from_millis(500);
/// Shortest and longest time between two attempts to connect.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long what was on its way to another server waits before it is sent again.
const AGAIN: Duration = Duration::from_millis(10);

/// The links on which this node's commands go to the masters of Redis. While one is away its commands fail at once; its
/// link comes back by itself, and to whichever server is in its place.
#[derive(Clone)]
pub(super) struct Commands {
    connector: Connector,
    pub lookout: Lookout,
    links: Arc<watch::Sender<Links>>,
    metrics: Arc<Metrics>,
}

/// Who has which keys, and the links that stand.
#[derive(Clone, Default)]
pub(super) struct Links {
    layout: Arc<Layout>,
    to: HashMap<Server, MultiplexedConnection>,
}

/// What can be sent.
pub(super) trait Call {
    fn send(&self, link: &mut MultiplexedConnection) -> impl Future<Output = RedisResult<Value>> + Send;
}

impl Call for Cmd {
    fn send(&self, link: &mut MultiplexedConnection) -> impl Future<Output = RedisResult<Value>> + Send {
        self.query_async(link)
    }
}

impl Call for Pipeline {
    fn send(&self, link: &mut MultiplexedConnection) -> impl Future<Output = RedisResult<Value>> + Send {
        self.query_async(link)
    }
}

impl Call for ScriptInvocation<'_> {
    fn send(&self, link: &mut MultiplexedConnection) -> impl Future<Output = RedisResult<Value>> + Send {
        self.invoke_async(link)
    }
}

impl Commands {
    /// Connects to whoever is there, or says why there is nobody.
    pub async fn connect(
        connector: Connector,
        lookout: Lookout,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BridgeError> {
        let layout = lookout.layout();
        let own = Commands { connector, lookout, links: Arc::default(), metrics };
        let dials = join_all(layout.masters().iter().map(|master| own.dial(master))).await;
        let (mut to, mut problem) = (HashMap::new(), None);
        for (master, dialled) in layout.masters().iter().zip(dials) {
            match dialled {
                Ok(link) => drop(to.insert(master.clone(), link)),
                Err(BridgeError::Away(text)) => {
                    let text = format!("{text}: is it running at {master}, and is the address right?");
                    problem = Some(BridgeError::Away(text));
                }
                Err(other) => problem = Some(other),
            }
        }
        if let (true, Some(problem)) = (to.is_empty(), problem) {
            return Err(problem);
        }
        to.keys().for_each(|_| own.metrics().relinked("commands"));
        own.change(|links| *links = Links { layout: layout.clone(), to });
        tokio::spawn(own.clone().keep());
        Ok(own)
    }

    /// Tells whenever a link has come or gone.
    pub fn watch(&self) -> watch::Receiver<Links> {
        self.links.subscribe()
    }

    /// Whether there is a link to anybody at this moment.
    pub fn is_linked(&self) -> bool {
        !self.links.borrow().to.is_empty()
    }

    /// Whether there is a link to every master.
    pub fn is_linked_everywhere(&self) -> bool {
        let links = self.links.borrow();
        links.layout.masters().iter().all(|master| links.to.contains_key(master))
    }

    /// Whether there is a link to whoever has this key.
    pub fn is_linked_for(&self, key: &str) -> bool {
        self.link(key).is_ok()
    }

    /// Carries out a call, all of whose keys and channels are where this one is; one that is on its way to another server
    /// is waited for.
    pub async fn run<T: FromRedisValue>(&self, key: &str, call: &impl Call) -> Result<T, BridgeError> {
        let until = Instant::now() + self.connector.patience();
        loop {
            match self.run_once(key, call).await {
                // not carried out
                Err(BridgeError::Moving(_)) if Instant::now() < until => sleep(AGAIN).await,
                answered => return answered,
            }
        }
    }

    /// The same, and refused at once where the key is on its way.
    pub async fn run_once<T: FromRedisValue>(&self, key: &str, call: &impl Call) -> Result<T, BridgeError> {
        let (server, mut link) = self.link(key)?;
        let asked = Instant::now();
        let answered = call.send(&mut link).await;
        self.metrics().called(asked.elapsed());
        let value = answered.map_err(|error| self.failed(&server, error))?;
        Ok(from_redis_value(value)?)
    }

    /// Carries out a command wherever it does not matter, at the same server as long as that is there.
    pub async fn run_anywhere<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, BridgeError> {
        let first = {
            let links = self.links.borrow();
            let masters = links.layout.masters().iter();
            masters.filter_map(|server| Some((server.clone(), links.to.get(server)?.clone()))).next()
        };
        let (server, mut link) = first.ok_or_else(not_connected)?;
        let asked = Instant::now();
        let answered = command.query_async(&mut link).await;
        self.metrics().called(asked.elapsed());
        answered.map_err(|error| self.failed(&server, error))
    }

    /// Every master there is, with its link.
    pub fn everywhere(&self) -> Vec<(Server, MultiplexedConnection)> {
        self.links.borrow().to.iter().map(|(server, link)| (server.clone(), link.clone())).collect()
    }

    /// The name by which a message is published to those who hear a key's server.
    pub fn publish(&self) -> &'static str {
        if self.lookout.layout().is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// What is measured of the bus.
    pub fn metrics(&self) -> &BridgeMetrics {
        self.metrics.bridge()
    }

    /// What is measured of other services.
    pub fn interop_metrics(&self) -> &InteropMetrics {
        self.metrics.interop()
    }

    fn link(&self, key: &str) -> Result<(Server, MultiplexedConnection), BridgeError> {
        let links = self.links.borrow();
        let server =
            links.layout.of(key).ok_or_else(|| BridgeError::Unlinked("no server has the key".into()))?;
        let link = links.to.get(server).ok_or_else(not_connected)?;
        Ok((server.clone(), link.clone()))
    }

    /// What an answer that is an error means; one of a server that is no master by now ends the link.
    fn failed(&self, server: &Server, error: RedisError) -> BridgeError {
        let is_replica = error.code() == Some("READONLY");
        let error = BridgeError::from(error);
        if matches!(error, BridgeError::Unwilling(_) | BridgeError::Moving(_)) {
            self.lookout.look_again();
        }
        if is_replica && self.lose(server) {
            tracing::warn!(%server, "Redis has become a read-only replica; looking for its master");
        }
        error
    }

    /// Whether there was a link until now.
    fn lose(&self, server: &Server) -> bool {
        let mut was_there = false;
        self.change(|links| was_there = links.to.remove(server).is_some());
        was_there
    }

    fn change(&self, change: impl FnOnce(&mut Links)) {
        self.links.send_modify(|links| {
            change(links);
            self.metrics().linked("commands", links.to.len());
        });
    }

    async fn dial(&self, server: &Server) -> Result<MultiplexedConnection, BridgeError> {
        let dial = async {
            let mut link = self.connector.link(server).await?;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut link).await?;
            match info.contains("role:slave") {
                true => {
                    Err(BridgeError::Refused("it is a read-only replica: set redis.url to its master".into()))
                }
                false => Ok(link),
            }
        };
        let late = |_| Err(BridgeError::Away("no answer in time".into()));
        timeout(self.connector.patience() * 2, dial).await.unwrap_or_else(late)
    }

    /// Has a keeper for each master there is.
    async fn keep(self) {
        let mut layouts = self.lookout.watch();
        let mut keepers: HashMap<Server, Keeper> = HashMap::new();
        loop {
            let layout = layouts.borrow_and_update().clone();
            keepers.retain(|server, _| layout.masters().contains(server));
            self.change(|links| {
                links.to.retain(|server, _| layout.masters().contains(server));
                links.layout = layout.clone();
            });
            for master in layout.masters() {
                let keep = || Keeper(tokio::spawn(self.clone().keep_one(master.clone())).abort_handle());
                keepers.entry(master.clone()).or_insert_with(keep);
            }
            if layouts.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks after the link to a master for as long as it is one.
    async fn keep_one(self, server: Server) {
        let (mut wait, mut away_since) = (BACKOFF.0, Instant::now());
        loop {
            let link = self.links.borrow().to.get(&server).cloned();
            let Some(mut link) = link else {
                match self.dial(&server).await {
                    Ok(link) => {
                        let away_ms = away_since.elapsed().as_millis() as u64;
                        tracing::info!(%server, away_ms, "Redis is back");
                        self.metrics().relinked("commands");
                        self.change(|links| {
                            // it may be no master any more by now
                            if links.layout.masters().contains(&server) {
                                links.to.insert(server.clone(), link);
                            }
                        });
                        wait = BACKOFF.0;
                    }
                    Err(error) => {
                        tracing::debug!(%error, %server, "Redis is away");
                        self.lookout.look_again();
                        sleep(jittered(wait, 0.5)).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                }
                continue;
            };
            sleep(PING).await;
            let ping: Result<String, RedisError> = redis::cmd("PING").query_async(&mut link).await;
            match ping {
                Ok(_) => {}
                // a server that is loading or whose script is busy is there
                Err(error) if is_answer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, %server, "Redis is away");
                    self.lose(&server);
                }
            }
            if !self.links.borrow().to.contains_key(&server) {
                away_since = Instant::now();
            }
        }
    }
}

/// Looks after one link; ended when dropped.
struct Keeper(AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn not_connected() -> BridgeError {
    BridgeError::Unlinked("not connected".into())
}

/// Whether the server itself has said no, rather than nothing at all.
fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_))
}
