use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::listener::{Listener, Means};
use super::redis_bridge_actor::{Linked, RedisBridgeActor};
use super::servers::{Layout, Server};
use crate::actor_kit::Port;

/// Orders that wait, at most.
pub(super) const ORDERS: usize = 1024;

/// What is to be heard, and what no longer.
pub(super) enum Order {
    /// Answered once everything published from then on is heard; dropped when the link was lost.
    Follow {
        channel: String,
        number: u64,
        done: oneshot::Sender<()>,
    },
    Leave {
        channel: String,
        number: u64,
    },
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

/// Hears the bus: has a listener at every master, and each channel heard at the one that has it.
pub(super) struct Subscriber {
    means: Means,
    layouts: watch::Receiver<Arc<Layout>>,
    /// What is followed, with the number of the order that asked for it.
    wanted: HashMap<String, u64>,
    orders: mpsc::Receiver<Order>,
    listeners: HashMap<Server, mpsc::Sender<Order>>,
}

impl Subscriber {
    pub fn new(means: Means) -> (Subscriptions, Self) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let layouts = means.commands.lookout.watch();
        let subscriptions = Subscriptions { orders: sender, numbers: Arc::default() };
        let (wanted, listeners) = (HashMap::new(), HashMap::new());
        (subscriptions, Subscriber { means, layouts, wanted, orders, listeners })
    }

    /// Works until nobody is left to hear it.
    pub async fn run(mut self, bridge: Port<RedisBridgeActor>) {
        self.wanted.insert(self.means.nodes.clone(), 0);
        let mut layout = Arc::new(Layout::default());
        loop {
            layout = self.settle(&layout, &bridge).await;
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order, &layout).await,
                    None => return,
                },
                changed = self.layouts.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Has every channel heard where it is by now; the layout that is so.
    async fn settle(&mut self, former: &Arc<Layout>, bridge: &Port<RedisBridgeActor>) -> Arc<Layout> {
        let layout = self.layouts.borrow_and_update().clone();
        if layout == *former {
            return layout;
        }
        self.listeners.retain(|server, _| layout.masters().contains(server));
        let mut started = HashSet::new();
        for master in layout.masters() {
            let has = |own: &&String| layout.of(own) == Some(master);
            if !self.listeners.contains_key(master) {
                let wanted = self.wanted.iter().filter(|(channel, _)| has(channel));
                let wanted = wanted.map(|(channel, number)| (channel.clone(), *number)).collect();
                let orders = Listener::start(&self.means, master.clone(), wanted, bridge.clone());
                self.listeners.insert(master.clone(), orders);
                started.insert(master);
            }
        }
        let moves: Vec<(String, u64)> = self
            .wanted
            .iter()
            .filter(|(channel, _)| former.of(channel) != layout.of(channel))
            // who begins now begins with what is wanted now
            .filter(|(channel, _)| layout.of(channel).is_none_or(|master| !started.contains(master)))
            .map(|(channel, number)| (channel.clone(), *number))
            .collect();
        let mut moved = Vec::new();
        for (channel, number) in moves {
            // later than whatever asked for it
            let leave = Order::Leave { channel: channel.clone(), number: number + 1 };
            self.pass_on(former.of(&channel), leave).await;
            let (done, followed) = oneshot::channel();
            self.pass_on(layout.of(&channel), Order::Follow { channel, number, done }).await;
            moved.push(followed);
        }
        if !moved.is_empty() {
            let bridge = bridge.clone();
            tokio::spawn(async move {
                for followed in moved {
                    // a listener whose link was lost says so itself
                    let _ = followed.await;
                }
                // a bridge that is busy looks at every log's top by itself
                let _ = bridge.tell(Linked);
            });
        }
        layout
    }

    async fn obey(&mut self, order: Order, layout: &Layout) {
        let channel = match &order {
            Order::Follow { channel, number, .. } => {
                let latest = self.wanted.entry(channel.clone()).or_default();
                *latest = *number.max(latest);
                channel
            }
            Order::Leave { channel, number } => {
                if self.wanted.get(channel).is_some_and(|latest| latest < number) {
                    self.wanted.remove(channel);
                }
                channel
            }
        };
        let server = layout.of(channel).cloned();
        self.pass_on(server.as_ref(), order).await;
    }

    /// Where nobody has the channel the order is dropped: whoever has it later is told then.
    async fn pass_on(&self, server: Option<&Server>, order: Order) {
        if let Some(listener) = server.and_then(|server| self.listeners.get(server)) {
            // one that has ended is replaced
            let _ = listener.send(order).await;
        }
    }
}
