use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::error::BridgeError;
use crate::clock::jittered;
use crate::telemetry::{BridgeMetrics, InteropMetrics, Metrics};

/// How often an idle link is tried.
const PING: Duration = Duration::from_millis(500);
/// How long a start waits for Redis.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Shortest and longest time between two attempts to connect.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The link on which this node's commands go to Redis. While Redis is away they fail at once; the link comes
/// back by itself.
#[derive(Clone)]
pub(super) struct Commands {
    client: Client,
    present: Arc<watch::Sender<Option<MultiplexedConnection>>>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Commands {
    /// Connects, or says why it cannot; `patience` is how long any command may take.
    pub async fn connect(
        client: Client,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BridgeError> {
        let own = Commands { client, present: Arc::new(watch::Sender::new(None)), patience, metrics };
        let first = own.dial(FIRST_PATIENCE.max(patience)).await.map_err(|error| match error {
            BridgeError::Away(problem) => {
                let address = own.client.get_connection_info().addr();
                BridgeError::Away(format!("{problem}: is it running at {address}, and is the address right?"))
            }
            other => other,
        })?;
        own.present.send_replace(Some(first));
        own.metrics.bridge().linked("commands", true);
        tokio::spawn(own.clone().keep());
        Ok(own)
    }

    /// Tells whenever the link has come back.
    pub fn watch(&self) -> watch::Receiver<Option<MultiplexedConnection>> {
        self.present.subscribe()
    }

    /// Whether there is a link at this moment.
    pub fn is_linked(&self) -> bool {
        self.present.borrow().is_some()
    }

    /// The link, if there is one.
    pub fn link(&self) -> Result<MultiplexedConnection, BridgeError> {
        self.present.borrow().clone().ok_or_else(|| BridgeError::Away("not connected".into()))
    }

    /// Carries out one command.
    pub async fn run<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, BridgeError> {
        let mut link = self.link()?;
        let asked = Instant::now();
        let answered = command.query_async(&mut link).await;
        self.metrics().called(asked.elapsed());
        answered.map_err(|error| self.failed(error))
    }

    /// Carries out several commands, in one round trip.
    pub async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, BridgeError> {
        let mut link = self.link()?;
        let asked = Instant::now();
        let answered = commands.query_async(&mut link).await;
        self.metrics().called(asked.elapsed());
        answered.map_err(|error| self.failed(error))
    }

    /// What an answer that is an error means; one of a server that is a replica by now ends the link.
    pub fn failed(&self, error: RedisError) -> BridgeError {
        if error.code() == Some("READONLY") && self.present.send_replace(None).is_some() {
            tracing::warn!("Redis has become a read-only replica; looking for its master");
            self.metrics.bridge().linked("commands", false);
        }
        error.into()
    }

    /// What is measured of the bus.
    pub fn metrics(&self) -> &BridgeMetrics {
        self.metrics.bridge()
    }

    /// What is measured of other services.
    pub fn interop_metrics(&self) -> &InteropMetrics {
        self.metrics.interop()
    }

    async fn dial(&self, patience: Duration) -> Result<MultiplexedConnection, BridgeError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(self.patience));
        let mut link = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut link).await?;
        if info.contains("role:slave") {
            return Err(BridgeError::Refused(
                "it is a read-only replica: set redis.url to its master".into(),
            ));
        }
        Ok(link)
    }

    /// Looks after the link for as long as anybody else has it.
    async fn keep(self) {
        let mut wait = BACKOFF.0;
        while Arc::strong_count(&self.present) > 1 {
            let link = self.present.borrow().clone();
            match link {
                Some(mut link) => {
                    sleep(PING).await;
                    let ping: Result<String, RedisError> = redis::cmd("PING").query_async(&mut link).await;
                    match ping {
                        Ok(_) => {}
                        // a server that is loading or whose script is busy is there
                        Err(error) if is_answer(&error) => {}
                        Err(error) => {
                            tracing::warn!(%error, "Redis is away");
                            self.present.send_replace(None);
                            self.metrics.bridge().linked("commands", false);
                        }
                    }
                }
                None => match timeout(self.patience * 2, self.dial(self.patience)).await {
                    Ok(Ok(link)) => {
                        tracing::info!("Redis is back");
                        self.present.send_replace(Some(link));
                        self.metrics.bridge().linked("commands", true);
                        wait = BACKOFF.0;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "Redis is away");
                        sleep(jittered(wait, 0.5)).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                    Err(_) => {
                        sleep(jittered(wait, 0.5)).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                },
            }
        }
    }
}

/// Whether the server itself has said no, rather than nothing at all.
fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_))
}
