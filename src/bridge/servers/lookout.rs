use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::address::Kind;
use super::connector::Connector;
use super::finder::Finder;
use super::layout::Layout;
use crate::bridge::error::BridgeError;
use crate::telemetry::Metrics;

/// How often it is asked who the masters are while nothing seems wrong.
const PACE: Duration = Duration::from_millis(500);
/// Shortest time between two looks.
const SPACING: Duration = Duration::from_millis(50);
/// How long the first look may take.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Knows who the masters are.
#[derive(Clone)]
pub(in crate::bridge) struct Lookout {
    layout: watch::Receiver<Arc<Layout>>,
    trouble: Arc<Notify>,
    may_change: bool,
}

impl Lookout {
    /// Looks for the first time, and again and again from then on; must run on the storage runtime.
    pub async fn start(connector: &Connector, metrics: Arc<Metrics>) -> Result<Self, BridgeError> {
        let mut finder = Finder::new(connector.clone());
        let first = Arc::new(first(&mut finder).await?);
        metrics.bridge().masters(first.masters().len());
        let (sender, layout) = watch::channel(first);
        let own = Lookout {
            layout,
            trouble: Arc::new(Notify::new()),
            may_change: *connector.kind() != Kind::Single,
        };
        if own.may_change {
            tokio::spawn(look(finder, sender, own.trouble.clone(), metrics));
        } else {
            // whoever waits for another one waits for ever
            tokio::spawn(async move { sender.closed().await });
        }
        Ok(own)
    }

    /// Who the masters are.
    pub fn layout(&self) -> Arc<Layout> {
        self.layout.borrow().clone()
    }

    /// Whether it can ever be another one.
    pub fn may_change(&self) -> bool {
        self.may_change
    }

    /// Tells when that is another one.
    pub fn watch(&self) -> watch::Receiver<Arc<Layout>> {
        self.layout.clone()
    }

    /// Something suggests that the masters are others by now.
    pub fn look_again(&self) {
        self.trouble.notify_one();
    }
}

/// Servers that are just starting know little: the first answer that names a master counts.
async fn first(finder: &mut Finder) -> Result<Layout, BridgeError> {
    let mut problem = None;
    let found = timeout(FIRST_WITHIN, async {
        loop {
            match finder.find().await {
                Ok(layout) if !layout.masters().is_empty() => return Ok(layout),
                Ok(_) => problem = Some(BridgeError::Away("no server of the cluster has slots".into())),
                Err(error @ BridgeError::Refused(_)) => return Err(error),
                Err(error) => problem = Some(error),
            }
            sleep(SPACING).await;
        }
    });
    let late = |_| BridgeError::Away("no answer in time".into());
    match found.await {
        Ok(found) => found,
        Err(elapsed) => Err(problem.unwrap_or_else(|| late(elapsed))),
    }
}

async fn look(
    mut finder: Finder,
    layout: watch::Sender<Arc<Layout>>,
    trouble: Arc<Notify>,
    metrics: Arc<Metrics>,
) {
    while !layout.is_closed() {
        let looked = Instant::now();
        tokio::select! {
            () = sleep(PACE) => {}
            () = trouble.notified() => sleep_until(looked + SPACING).await,
        }
        match finder.find().await {
            // nobody is left: they may be back in a moment, and are where they were
            Ok(found) if found.masters().is_empty() => {}
            Ok(found) => {
                let is_new = layout.send_if_modified(|own| {
                    let is_new = **own != found;
                    if is_new {
                        *own = Arc::new(found.clone());
                    }
                    is_new
                });
                if is_new {
                    let masters: Vec<String> = found.masters().iter().map(ToString::to_string).collect();
                    tracing::info!(
                        masters = masters.join(", "),
                        "the masters of Redis, or their slots, are others"
                    );
                    metrics.bridge().other_masters(found.masters().len());
                }
            }
            Err(error) => tracing::debug!(%error, "nobody says who the masters of Redis are"),
        }
    }
}
