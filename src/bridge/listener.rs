use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::commands::{BACKOFF, Commands};
use super::error::BridgeError;
use super::keys::Keys;
use super::redis_bridge_actor::{Heard as Brought, Linked, RedisBridgeActor};
use super::servers::{Connector, Ear, Heard, Server};
use super::subscriber::{ORDERS, Order};
use crate::actor_kit::Port;
use crate::clock::jittered;

/// How often a node sends itself a message through Redis.
pub(super) const PROBE: Duration = Duration::from_millis(500);
/// A subscription that brings nothing for this long is dead, however open its connection looks.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// What every listener needs.
#[derive(Clone)]
pub(super) struct Means {
    pub connector: Connector,
    pub commands: Commands,
    pub keys: Keys,
    /// What this node calls itself.
    pub own_name: Arc<str>,
    /// The channel on which nodes tell each other what is no event.
    pub nodes: String,
}

/// Holds the connection on which one master is heard; it is made anew whenever it is lost, or brings nothing.
pub(super) struct Listener {
    means: Means,
    server: Server,
    /// What is followed here, with the number of the order that asked for it.
    wanted: HashMap<String, u64>,
    /// What of it the server ended and did not take up again: its slot is another one's, or was for a moment.
    unheard: HashSet<String>,
    orders: mpsc::Receiver<Order>,
}

impl Listener {
    /// Works until nobody gives it orders any more.
    pub fn start(
        means: &Means,
        server: Server,
        wanted: HashMap<String, u64>,
        bridge: Port<RedisBridgeActor>,
    ) -> mpsc::Sender<Order> {
        let (sender, orders) = mpsc::channel(ORDERS);
        let own = Listener { means: means.clone(), server, wanted, unheard: HashSet::new(), orders };
        tokio::spawn(own.run(bridge));
        sender
    }

    async fn run(mut self, bridge: Port<RedisBridgeActor>) {
        let mut wait = BACKOFF.0;
        while bridge.is_open() && !self.orders.is_closed() {
            match self.connect().await {
                Ok((ear, probe)) => {
                    wait = BACKOFF.0;
                    let metrics = self.means.commands.metrics();
                    let _hearing = metrics.hears();
                    // a bridge that is busy looks at every log's top by itself
                    let _ = bridge.tell(Linked);
                    self.listen(ear, &probe, &bridge).await;
                    if !self.orders.is_closed() {
                        tracing::warn!(server = %self.server, "the bus is not heard; subscribing again");
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, server = %self.server, "the bus cannot be subscribed to");
                    self.obey_away(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
            self.means.commands.lookout.look_again();
        }
    }

    /// A subscription to all that is wanted, and the channel on which this node hears itself there.
    async fn connect(&self) -> Result<(Ear, String), BridgeError> {
        let layout = self.means.commands.lookout.layout();
        let tag = match layout.is_cluster() {
            true => layout.tag(&self.server),
            false => Some(String::new()),
        };
        let tag = tag.ok_or_else(|| BridgeError::Away("it has no slots any more".into()))?;
        let probe = self.means.keys.probe(&tag, &self.means.own_name);
        let connect = async {
            let ear = self.means.connector.ear(&self.server).await?;
            // others are on their way to whoever has them by now
            let is_here = |channel: &&String| layout.of(channel) == Some(&self.server);
            let channels = self.wanted.keys().filter(is_here).chain([&probe]).map(String::as_str);
            ear.order(self.verb("SUBSCRIBE"), channels).await?;
            Ok::<_, BridgeError>(ear)
        };
        let late = |_| BridgeError::Away("no answer in time".into());
        let ear = timeout(self.means.connector.patience() * 2, connect).await.map_err(late)??;
        Ok((ear, probe))
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
    async fn listen(&mut self, mut ear: Ear, own: &str, bridge: &Port<RedisBridgeActor>) {
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        self.unheard.clear();
        loop {
            tokio::select! {
                heard = ear.next() => {
                    heard_at = Instant::now();
                    match heard {
                        None => return,
                        Some(Heard::Message { channel, .. }) if channel == own => {}
                        Some(Heard::Message { channel, payload }) => {
                            // no more than its mailbox waits for the bridge
                            if bridge.ask(Brought { channel, bytes: payload }).await.is_err() {
                                return;
                            }
                        }
                        Some(Heard::Ended { channel }) if channel == own => return,
                        Some(Heard::Ended { channel }) => {
                            if self.wanted.contains_key(&channel) {
                                self.unheard.insert(channel);
                                if !self.hear_again(&ear, bridge).await {
                                    return;
                                }
                            }
                        }
                    }
                }
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    if !self.obey(order, &ear).await {
                        return;
                    }
                }
                _ = probe.tick() => {
                    if heard_at.elapsed() >= SILENCE {
                        tracing::warn!(server = %self.server, "the subscription is open and brings nothing");
                        return;
                    }
                    if !self.hear_again(&ear, bridge).await {
                        return;
                    }
                    let (commands, channel) = (self.means.commands.clone(), own.to_owned());
                    tokio::spawn(async move {
                        let publish = redis::cmd(commands.publish()).arg(&channel).arg("").clone();
                        // while Redis is away the silence says so
                        let _ = commands.run::<i64>(&channel, &publish).await;
                    });
                }
            }
        }
    }

    /// Subscribes again to what the server has ended, as far as it takes that; whether the link is good.
    async fn hear_again(&mut self, ear: &Ear, bridge: &Port<RedisBridgeActor>) -> bool {
        for channel in self.unheard.clone() {
            self.means.commands.lookout.look_again();
            let again = ear.order(self.verb("SUBSCRIBE"), [channel.as_str()]);
            match timeout(self.means.connector.patience(), again).await {
                Ok(Ok(())) => {
                    self.unheard.remove(&channel);
                    // a bridge that is busy looks at every log's top by itself
                    let _ = bridge.tell(Linked);
                }
                // whoever has it is told so once that is known
                Ok(Err(error)) if error.is_known() => {}
                _ => return false,
            }
        }
        true
    }

    fn want(&mut self, channel: String, number: u64) {
        let latest = self.wanted.entry(channel).or_default();
        *latest = number.max(*latest);
    }

    /// Whether it is not followed any more: a later order may have asked for it.
    fn unwant(&mut self, channel: &str, number: u64) -> bool {
        let is_last = self.wanted.get(channel).is_some_and(|latest| *latest < number);
        if is_last {
            self.unheard.remove(channel);
        }
        is_last && self.wanted.remove(channel).is_some()
    }

    async fn obey(&mut self, order: Order, ear: &Ear) -> bool {
        let within = self.means.connector.patience();
        match order {
            Order::Follow { channel, number, done } => {
                let followed = timeout(within, ear.order(self.verb("SUBSCRIBE"), [channel.as_str()])).await;
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
                let left = timeout(within, ear.order(self.verb("UNSUBSCRIBE"), [channel.as_str()])).await;
                // of another server's channel nothing is heard here anyway
                left.is_ok_and(|left| left.map_or_else(|error| error.is_known(), |()| true))
            }
        }
    }

    /// In a cluster messages go to the server that has the channel's slot, and to no other.
    fn verb(&self, verb: &'static str) -> &'static str {
        match (self.means.commands.lookout.layout().is_cluster(), verb) {
            (true, "SUBSCRIBE") => "SSUBSCRIBE",
            (true, _) => "SUNSUBSCRIBE",
            (false, _) => verb,
        }
    }
}
