use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::commands::BACKOFF;
use super::error::BridgeError;
use super::ingest::{Entrance, Ingest};
use super::interop::{CHANNELS, RANKINGS};
use super::listener::{PROBE, SILENCE};
use super::servers::{Ear, Heard, Server};
use crate::clock::{jittered, random_u64};

/// The same complaint is in the log once in this time.
const QUIET: Duration = Duration::from_secs(10);
/// How much of a channel's name is in the log.
const SHOWN: usize = 100;

/// The subscription to the channels of other services, made anew whenever it is lost or brings nothing.
pub(super) struct Hearing<'a> {
    ingest: &'a Ingest,
    entrance: Entrance,
    /// Whether it stands.
    stands: bool,
    /// When each complaint was last in the log, and how often it was left out since.
    said: HashMap<&'static str, (Instant, u64)>,
}

impl<'a> Hearing<'a> {
    pub fn new(ingest: &'a Ingest, entrance: Entrance) -> Self {
        Hearing { ingest, entrance, stands: false, said: HashMap::new() }
    }

    /// Hears until it is dropped.
    pub async fn run(&mut self) {
        let mut wait = BACKOFF.0;
        loop {
            match self.connect().await {
                Ok((server, ear)) => {
                    wait = BACKOFF.0;
                    self.begin().await;
                    self.listen(&server, ear).await;
                    self.let_go();
                    tracing::warn!("what other services publish is not heard; subscribing again");
                }
                Err(error @ BridgeError::Refused(_)) => self.complain("refused", || {
                    tracing::warn!(%error, "Redis does not let this node hear what other services publish");
                }),
                Err(error) => {
                    tracing::debug!(%error, "the channels of other services cannot be subscribed to")
                }
            }
            sleep(jittered(wait, 0.5)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Hears nothing more; `was_led` until now by a node that hands over in good order.
    pub async fn end(mut self, was_led: bool) {
        if self.stands {
            self.let_go();
            if was_led {
                self.mark().await;
            }
        }
    }

    /// In a cluster every server brings what is published at any.
    async fn connect(&self) -> Result<(Server, Ear), BridgeError> {
        let own = self.ingest;
        let layout = own.store.commands.lookout.layout();
        let masters = layout.masters();
        // another one the next time
        let number = random_u64() as usize % masters.len().max(1);
        let server = masters.get(number).ok_or_else(|| BridgeError::Away("there is no master".into()))?;
        let connect = async {
            let ear = own.connector.ear(server).await?;
            ear.order("PSUBSCRIBE", [RANKINGS]).await?;
            let configured = own.interop.channels.keys().map(String::as_str);
            ear.order("SUBSCRIBE", CHANNELS.into_iter().chain(configured).chain([&*own.probe])).await?;
            Ok::<_, BridgeError>((server.clone(), ear))
        };
        let late = |_| BridgeError::Away("no answer in time".into());
        timeout(own.connector.patience() * 2, connect).await.map_err(late)?
    }

    /// What is published from now on is heard.
    async fn begin(&mut self) {
        self.stands = true;
        let now = self.ingest.logs.clock().steady().micros();
        let former = self.mark().await;
        let gap = former.map_or(0, |former| now.saturating_sub(former).max(0));
        let gap = Duration::from_micros(gap as u64);
        self.ingest.metrics.interop().takes_over(gap);
        tracing::info!(gap_ms = gap.as_millis() as u64, "this node takes in what other services publish");
    }

    fn let_go(&mut self) {
        self.stands = false;
        self.ingest.metrics.interop().lets_go();
    }

    /// Writes down that everything up to now was heard; when that was last so.
    async fn mark(&self) -> Option<i64> {
        let store = &self.ingest.store;
        let now = self.ingest.logs.clock().steady().micros();
        let mut set = redis::cmd("SET");
        set.arg(store.keys.ingest()).arg(now).arg("GET");
        match store.commands.run(&store.keys.ingest(), &set).await {
            Ok(former) => former,
            Err(error) => {
                tracing::debug!(%error, "it could not be written down that other services are heard");
                None
            }
        }
    }

    /// Hears until the link is lost.
    async fn listen(&mut self, server: &Server, mut ear: Ear) {
        let own = self.ingest;
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard_at, mut is_marked) = (Instant::now(), true);
        loop {
            tokio::select! {
                heard = ear.next() => {
                    let Some(heard) = heard else { return };
                    heard_at = Instant::now();
                    match heard {
                        Heard::Message { channel, .. } if channel == own.probe => is_marked = false,
                        Heard::Message { channel, payload } => self.take(&channel, &payload),
                        // of channels that no slot has
                        Heard::Ended { .. } => {}
                    }
                }
                _ = probe.tick() => {
                    if heard_at.elapsed() >= SILENCE {
                        tracing::warn!("the subscription to other services is open and brings nothing");
                        return;
                    }
                    if !own.store.commands.lookout.layout().masters().contains(server) {
                        tracing::info!(%server, "the server is no master any more: others bring what is published");
                        return;
                    }
                    let (commands, key) = (own.store.commands.clone(), own.store.keys.ingest());
                    let (channel, now) = (own.probe.clone(), own.logs.clock().steady().micros());
                    let mark = !std::mem::replace(&mut is_marked, true);
                    tokio::spawn(async move {
                        // while Redis is away the silence says so
                        let _ = commands.run::<i64>(&channel, redis::cmd("PUBLISH").arg(&channel).arg("")).await;
                        if mark {
                            let _ = commands.run::<()>(&key, redis::cmd("SET").arg(&key).arg(now)).await;
                        }
                    });
                }
            }
        }
    }

    fn take(&mut self, name: &str, payload: &[u8]) {
        let channel: String = name.chars().take(SHOWN).collect();
        for read in self.ingest.interop.read(name, payload) {
            match read {
                Ok(event) => {
                    if !self.entrance.take(event) {
                        self.ingest.metrics.interop().dropped("queue_full", 1);
                        self.complain("queue_full", || {
                            tracing::warn!(channel, "more is published than the log takes: it is lost");
                        });
                    }
                }
                Err(unfit) => {
                    let reason = unfit.as_str();
                    self.ingest.metrics.interop().refused(reason, 1);
                    if reason != "own" {
                        self.complain(reason, || {
                            tracing::warn!(
                                channel,
                                reason,
                                "a message of another service does not enter the log"
                            );
                        });
                    }
                }
            }
        }
    }

    /// Says it, unless the same was said just now.
    fn complain(&mut self, what: &'static str, say: impl FnOnce()) {
        let now = Instant::now();
        match self.said.get_mut(what) {
            Some((at, left_out)) if now.duration_since(*at) < QUIET => *left_out += 1,
            former => {
                let left_out = former.map_or(0, |(_, left_out)| *left_out);
                say();
                if left_out > 0 {
                    tracing::warn!(reason = what, left_out, "the same came since this was last said");
                }
                self.said.insert(what, (now, 0));
            }
        }
    }
}
