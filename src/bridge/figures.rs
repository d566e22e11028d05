use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Pipeline;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::error::BridgeError;
use super::lease::Lease;
use super::store::Store;
use crate::domain::Timestamp;
use crate::telemetry::{FRESH, Figures, Metrics, NodeFigures, Samples};

/// How often a node says what it did.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a node that has gone said is removed after this.
const FORGET: Duration = Duration::from_secs(60);
/// The field that counts the events of all nodes; no node is called so.
const TOTAL: &str = "";

/// What a node says.
#[derive(Serialize, Deserialize)]
struct Said {
    /// Clock of the log, µs.
    at: i64,
    figures: NodeFigures,
}

/// Tells the other nodes what this one does, adds up what they say, and writes it down for other services.
pub(super) struct FigureKeeper {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub lease: watch::Receiver<Option<Lease>>,
    /// This node's field.
    pub own_name: String,
    /// Whether other services are to find the figures.
    pub mirrors: bool,
}

impl FigureKeeper {
    /// Works for as long as there is somebody to lead.
    pub async fn run(self) {
        let (mut samples, mut unsaid, mut writes_down) = (Samples::default(), 0, true);
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.lease.has_changed().is_ok() {
            tick.tick().await;
            let (figures, new) = samples.add(Instant::now(), self.metrics.counts());
            unsaid += new;
            let together = match self.exchange(figures, unsaid).await {
                Ok(together) => together,
                Err(error) => {
                    tracing::debug!(%error, "the figures of the nodes could not be exchanged");
                    continue;
                }
            };
            unsaid = 0;
            self.metrics.figures().show(together);
            if self.mirrors && self.leads() {
                let written = self.write_down(together).await;
                if let Err(error) = &written
                    && writes_down
                {
                    tracing::warn!(%error, "the figures cannot be written down for other services");
                }
                writes_down = written.is_ok();
            }
        }
    }

    fn leads(&self) -> bool {
        self.lease.borrow().is_some_and(|lease| lease.is_good())
    }

    async fn exchange(&self, figures: NodeFigures, new: u64) -> Result<Figures, BridgeError> {
        let (key, now) = (self.store.keys.figures(), self.store.now());
        let said = serde_json::to_string(&Said { at: now.micros(), figures }).expect("numbers");
        let mut both = Pipeline::new();
        both.hset(&key, &self.own_name, said).ignore().hincr(&key, TOTAL, new).ignore().hgetall(&key);
        let (fields,): (Vec<(String, String)>,) = self.store.commands.run(&key, &both).await?;
        let total = fields.iter().find(|(field, _)| field == TOTAL).map_or("", |(_, total)| total);
        let nodes = fields.iter().filter(|(field, _)| field != TOTAL);
        // what another release says, and cannot be read, counts as nothing
        let nodes: Vec<_> =
            nodes.map(|(field, said)| (field, serde_json::from_str::<Said>(said).ok())).collect();
        let age = |said: &Said| now.since(Timestamp::from_micros(said.at));
        if self.leads() {
            let is_gone = |said: &Option<Said>| said.as_ref().is_none_or(|said| age(said) > FORGET);
            let gone: Vec<_> =
                nodes.iter().filter(|(_, said)| is_gone(said)).map(|(field, _)| *field).collect();
            if !gone.is_empty() {
                self.store.commands.run::<()>(&key, redis::cmd("HDEL").arg(&key).arg(gone)).await?;
            }
        }
        let present = nodes.into_iter().filter_map(|(_, said)| said).filter(|said| age(said) < FRESH);
        Ok(Figures::of(total.parse().unwrap_or(0), &present.map(|said| said.figures).collect::<Vec<_>>()))
    }

    async fn write_down(&self, figures: Figures) -> Result<(), BridgeError> {
        let all = [
            ("metrics:realtime:connections", figures.active_connections.to_string()),
            ("metrics:realtime:messages", figures.total_messages_published.to_string()),
            ("metrics:realtime:messages_per_sec", figures.messages_per_second.to_string()),
            ("metrics:realtime:avg_latency_ms", figures.average_message_latency.to_string()),
            ("metrics:realtime:error_rate", figures.error_rate.to_string()),
        ];
        for (key, value) in all {
            self.store.commands.run::<()>(key, redis::cmd("SET").arg(key).arg(value)).await?;
        }
        Ok(())
    }
}
