use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, Msg};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::commands::{BACKOFF, Commands};
use super::error::BridgeError;
use super::keys::Keys;
use super::redis_bridge_actor::{Heard, Linked, RedisBridgeActor};
use crate::actor_kit::Port;
use crate::clock::jittered;

/// How often a node sends itself a message through Redis.
pub(super) const PROBE: Duration = Duration::from_millis(500);
/// A subscription that brings nothing for this long is dead, however open its connection looks.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// A message to itself that takes longer has waited behind others.
const LATE: Duration = Duration::from_secs(5);

/// Orders to the subscriber that wait, at most.
const ORDERS: usize = 1024;

enum Order {
    Follow { channel: String, number: u64, done: oneshot::Sender<()> },
    Leave { channel: String, number: u64 },
}

/// How the bridge reaches its subscriber; orders count in the order in which they were given, not in which they
/// arrive.
#[derive(Clone)]
pub(super) struct Subscriptions {
    orders: mpsc::Sender<Order>,
    numbers: Arc<AtomicU64>,
}

impl Subscriptions {
    /// Returns when everything published from now on will be heard, or when the link is lost: then the bridge
    /// is told once it stands again.
    pub fn follow(&self, channel: String) -> impl Future<Output = ()> + use<> {
        let (orders, number, (done, followed)) = (self.orders.clone(), self.next(), oneshot::channel());
        async move {
            if orders.send(Order::Follow { channel, number, done }).await.is_ok() {
                // dropped when the link was lost
                let _ = followed.await;
            }
        }
    }

    /// Nothing more is to be heard of a channel.
    pub fn leave(&self, channel: String) -> impl Future<Output = ()> + use<> {
        let (orders, number) = (self.orders.clone(), self.next());
        async move {
            // a subscriber that has ended hears nothing
            let _ = orders.send(Order::Leave { channel, number }).await;
        }
    }

    fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// Holds the connection on which the bus is heard; it is made anew whenever it is lost, or brings nothing.
pub(super) struct Subscriber {
    client: Client,
    commands: Commands,
    patience: Duration,
    probe: String,
    nodes: String,
    /// What is followed, with the number of the order that asked for it.
    wanted: HashMap<String, u64>,
    orders: mpsc::Receiver<Order>,
}

impl Subscriber {
    pub fn new(
        client: Client,
        commands: Commands,
        (keys, server_id): (&Keys, &str),
        patience: Duration,
    ) -> (Subscriptions, Self) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let (probe, nodes, wanted) = (keys.probe(server_id), keys.nodes(), HashMap::new());
        let subscriptions = Subscriptions { orders: sender, numbers: Arc::default() };
        (subscriptions, Subscriber { client, commands, patience, probe, nodes, wanted, orders })
    }

    /// Works until nobody is left to hear it.
    pub async fn run(mut self, bridge: Port<RedisBridgeActor>) {
        let mut wait = BACKOFF.0;
        while bridge.is_open() {
            match self.connect().await {
                Ok((sink, stream)) => {
                    wait = BACKOFF.0;
                    self.commands.metrics().linked("subscriber", true);
                    // a bridge that is busy looks at every log's top by itself
                    let _ = bridge.tell(Linked);
                    self.listen(sink, stream, &bridge).await;
                    self.commands.metrics().linked("subscriber", false);
                    tracing::warn!("the bus is not heard; subscribing again");
                }
                Err(error) => {
                    tracing::debug!(%error, "the bus cannot be subscribed to");
                    self.obey_away(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn connect(&self) -> Result<(PubSubSink, PubSubStream), BridgeError> {
        let connect = async {
            let (mut sink, stream) = self.client.get_async_pubsub().await?.split();
            let channels: Vec<&String> = self.wanted.keys().chain([&self.probe, &self.nodes]).collect();
            sink.subscribe(&channels).await?;
            Ok((sink, stream))
        };
        let late = |_| BridgeError::Away("no answer in time".into());
        timeout(self.patience * 2, connect).await.map_err(late)?
    }

    /// Takes orders while there is no link.
    async fn obey_away(&mut self, wait: Duration) {
        let until = sleep(jittered(wait, 0.5));
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                order = self.orders.recv() => match order {
                    Some(Order::Follow { channel, number, .. }) => self.want(channel, number),
                    Some(Order::Leave { channel, number }) => drop(self.unwant(&channel, number)),
                    None => return,
                },
            }
        }
    }

    /// Hears until the link is lost.
    async fn listen(
        &mut self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
        bridge: &Port<RedisBridgeActor>,
    ) {
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut heard_at = started;
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else { return };
                    heard_at = Instant::now();
                    if message.get_channel_name() == self.probe {
                        if is_late(&message, started) {
                            tracing::warn!("the bus brings more than this node takes; what waits is fetched");
                            return;
                        }
                    } else if !pass_on(message, bridge).await {
                        return;
                    }
                }
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    if !self.obey(order, &mut sink).await {
                        return;
                    }
                }
                _ = probe.tick() => {
                    if heard_at.elapsed() >= SILENCE {
                        tracing::warn!("the subscription is open and brings nothing");
                        return;
                    }
                    let (commands, channel) = (self.commands.clone(), self.probe.clone());
                    let sent = started.elapsed().as_millis() as u64;
                    tokio::spawn(async move {
                        // while Redis is away the silence says so
                        let _ = commands.run::<i64>(redis::cmd("PUBLISH").arg(channel).arg(sent)).await;
                    });
                }
            }
        }
    }

    fn want(&mut self, channel: String, number: u64) {
        let latest = self.wanted.entry(channel).or_default();
        *latest = number.max(*latest);
    }

    /// Whether it is not followed any more: a later order may have asked for it.
    fn unwant(&mut self, channel: &str, number: u64) -> bool {
        let is_last = self.wanted.get(channel).is_some_and(|latest| *latest < number);
        is_last && self.wanted.remove(channel).is_some()
    }

    async fn obey(&mut self, order: Order, sink: &mut PubSubSink) -> bool {
        match order {
            Order::Follow { channel, number, done } => {
                let followed = timeout(self.patience, sink.subscribe(&channel)).await;
                self.want(channel, number);
                let is_followed = matches!(followed, Ok(Ok(())));
                if is_followed {
                    // whoever asked may have gone
                    let _ = done.send(());
                }
                is_followed
            }
            Order::Leave { channel, number } => {
                if !self.unwant(&channel, number) {
                    return true;
                }
                matches!(timeout(self.patience, sink.unsubscribe(&channel)).await, Ok(Ok(())))
            }
        }
    }
}

/// Whether a message to itself was long on its way: the client library keeps whatever waits to be taken, without
/// a bound, so a link that has fallen behind is given up with all that.
fn is_late(message: &Msg, started: Instant) -> bool {
    let sent: Option<u64> =
        std::str::from_utf8(message.get_payload_bytes()).ok().and_then(|sent| sent.parse().ok());
    // one of the link before is of no use
    sent.is_some_and(|sent| started.elapsed().saturating_sub(Duration::from_millis(sent)) > LATE)
}

/// Waits until the bridge has taken a message, so that no more than its mailbox waits anywhere.
async fn pass_on(message: Msg, bridge: &Port<RedisBridgeActor>) -> bool {
    let heard =
        Heard { channel: message.get_channel_name().to_owned(), bytes: message.get_payload_bytes().into() };
    bridge.ask(heard).await.is_ok()
}
