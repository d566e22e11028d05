use std::collections::HashSet;
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

/// Orders to the subscriber that wait, at most.
const ORDERS: usize = 1024;

enum Order {
    Follow { channel: String, done: oneshot::Sender<()> },
    Leave { channel: String },
}

/// How the bridge reaches its subscriber.
#[derive(Clone)]
pub(super) struct Subscriptions(mpsc::Sender<Order>);

impl Subscriptions {
    /// Returns when everything published from now on will be heard, or when the link is lost: then the bridge
    /// is told once it stands again.
    pub async fn follow(&self, channel: String) {
        let (done, followed) = oneshot::channel();
        if self.0.send(Order::Follow { channel, done }).await.is_ok() {
            // dropped when the link was lost
            let _ = followed.await;
        }
    }

    /// Nothing more is to be heard of a channel.
    pub async fn leave(&self, channel: String) {
        // a subscriber that has ended hears nothing
        let _ = self.0.send(Order::Leave { channel }).await;
    }
}

/// Holds the connection on which the bus is heard; it is made anew whenever it is lost, or brings nothing.
pub(super) struct Subscriber {
    client: Client,
    commands: Commands,
    patience: Duration,
    probe: String,
    nodes: String,
    wanted: HashSet<String>,
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
        let (probe, nodes, wanted) = (keys.probe(server_id), keys.nodes(), HashSet::new());
        (Subscriptions(sender), Subscriber { client, commands, patience, probe, nodes, wanted, orders })
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
            let channels: Vec<&String> = self.wanted.iter().chain([&self.probe, &self.nodes]).collect();
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
                    Some(Order::Follow { channel, .. }) => drop(self.wanted.insert(channel)),
                    Some(Order::Leave { channel }) => drop(self.wanted.remove(&channel)),
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
        let mut heard_at = Instant::now();
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else { return };
                    heard_at = Instant::now();
                    if message.get_channel_name() != self.probe && !pass_on(message, bridge).await {
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
                    tokio::spawn(async move {
                        // while Redis is away the silence says so
                        let _ = commands.run::<i64>(redis::cmd("PUBLISH").arg(channel).arg("")).await;
                    });
                }
            }
        }
    }

    async fn obey(&mut self, order: Order, sink: &mut PubSubSink) -> bool {
        match order {
            Order::Follow { channel, done } => {
                let followed = timeout(self.patience, sink.subscribe(&channel)).await;
                self.wanted.insert(channel);
                let is_followed = matches!(followed, Ok(Ok(())));
                if is_followed {
                    // whoever asked may have gone
                    let _ = done.send(());
                }
                is_followed
            }
            Order::Leave { channel } => {
                self.wanted.remove(&channel);
                matches!(timeout(self.patience, sink.unsubscribe(&channel)).await, Ok(Ok(())))
            }
        }
    }
}

/// Waits until the bridge has taken a message, so that no more than its mailbox waits anywhere.
async fn pass_on(message: Msg, bridge: &Port<RedisBridgeActor>) -> bool {
    let heard =
        Heard { channel: message.get_channel_name().to_owned(), bytes: message.get_payload_bytes().into() };
    bridge.ask(heard).await.is_ok()
}
