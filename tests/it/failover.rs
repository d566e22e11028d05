//! Masters of Redis die, hand over, are cut off and come back, under Sentinel and in a Redis Cluster: commands are carried
//! out, nothing comes twice under one position, and whoever may have missed something is told. And nodes that are replaced
//! one after the other, by others of the same release or of the next one: nobody misses anything.

mod cluster;
mod releases;
mod rolling;
mod scenarios;
mod sentinel;
mod starts;
mod tenants;

use std::time::{Duration, Instant};

use crate::support::load::{Copying, Published, Publishing, Reports, Seen};
use crate::support::{Server, ServerOptions};

const FLEET: &str = "FLT-A01";
const TOPIC: &str = "topic:a";

/// Three nodes under load, with somebody who listens at each.
struct Stage {
    server: Server,
    reports: Reports,
    publishing: Publishing,
    copies: Vec<Copying>,
}

/// What came of it.
struct Played {
    published: Published,
    seen: Vec<Seen>,
}

impl Stage {
    /// On a Redis at this URL.
    async fn on(url: String) -> Self {
        Self::with(ServerOptions::default().cluster(3).unlimited().env("REDIS_URL", url)).await
    }

    async fn with(options: ServerOptions) -> Self {
        Self::of(Server::with(options)).await
    }

    async fn of(server: Server) -> Self {
        let api = server.api();
        let mut copies = Vec::new();
        for node in api.everywhere() {
            copies.push(Copying::start(node, FLEET, TOPIC).await);
        }
        let stage = Stage {
            reports: Reports::start(api.clone(), FLEET),
            publishing: Publishing::start(api, TOPIC),
            server,
            copies,
        };
        stage.goes_on().await;
        stage
    }

    /// Waits until more is reported and published.
    async fn goes_on(&self) {
        self.reports.reaches(self.reports.count() + 20).await;
        self.publishing.goes_on().await;
    }

    /// Ends the load, and waits until everybody has everything.
    async fn end(self) -> Played {
        let (version, published) = (self.reports.stop().await, self.publishing.stop().await);
        let mut seen = Vec::new();
        for copy in &self.copies {
            seen.push(copy.reaches(version, &published).await);
        }
        assert_eq!(self.server.operator().metric("bongsu_bus_malformed_total").await, 0.0);
        Played { published, seen }
    }
}

impl Played {
    /// Everybody was told so many times to load again.
    fn assert_told(&self, times: usize) {
        let told: Vec<usize> = self.seen.iter().map(|own| own.told.len()).collect();
        assert!(told.iter().all(|own| *own == times), "told {told:?} times and not {times}");
    }

    /// How long after a fault nothing could be published, and until everybody had been told.
    fn report(&self, what: &str, fault: Instant) {
        let told = self.seen.iter().filter_map(|own| own.told.iter().find(|at| **at > fault)).max();
        let told = told.map_or(Duration::ZERO, |at| *at - fault);
        let pause = self.published.longest_pause(fault);
        eprintln!("{what}: no publish for {} ms, all told after {} ms", pause.as_millis(), told.as_millis());
    }
}
