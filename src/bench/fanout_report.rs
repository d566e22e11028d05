//! What a run found, for people and for scripts.

use std::fmt::Write;

use serde::Serialize;

/// Times from sending a publish to reading its frame, sampled on one of 16 connections. At a rate they
/// count from when the publish was due: one that goes out late because the server is slow is not excused.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Median in ms.
    pub p50_ms: f64,
    /// 95th percentile in ms.
    pub p95_ms: f64,
    /// 99th percentile in ms.
    pub p99_ms: f64,
    /// Longest in ms.
    pub max_ms: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Latency {
    /// Percentiles by nearest rank of times in µs; `None` without any.
    pub(super) fn of(mut times_us: Vec<u32>) -> Option<Self> {
        times_us.sort_unstable();
        let samples = times_us.len();
        let rank = |percent: usize| {
            let rank = (samples * percent).div_ceil(100).max(1);
            times_us.get(rank - 1).map(|&us| f64::from(us) / 1000.0)
        };
        let (p50_ms, p95_ms, p99_ms, max_ms) = (rank(50)?, rank(95)?, rank(99)?, rank(100)?);
        Some(Self { p50_ms, p95_ms, p99_ms, max_ms, samples })
    }
}

/// What the clients of one node received.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NodeFigures {
    /// The node's address.
    pub address: String,
    /// Clients that listen to it.
    pub connections: u64,
    /// Deliveries there should be.
    pub deliveries_expected: u64,
    /// Deliveries that never came, counted connection by connection.
    pub deliveries_lost: u64,
    /// Frames that a client had before, or that were never published.
    pub deliveries_duplicate: u64,
}

/// The figures of one fan-out run. Figures of the server's process are absent without its pid,
/// those of the kernel on systems that do not tell them.
#[derive(Debug, Clone, Serialize)]
pub struct FanoutReport {
    /// Server address, or those of all nodes, separated by commas.
    pub address: String,
    /// What the clients of each node received.
    pub nodes: Vec<NodeFigures>,
    /// Clients connected.
    pub connections: usize,
    /// Clients the server closed during the run, the burst included.
    pub connections_dropped: usize,
    /// Topics the clients are spread over.
    pub topics: usize,
    /// Publishes that may be on their way at once in the closed loop.
    pub ahead: usize,
    /// Connections that published.
    pub publishers: usize,
    /// Cores the server may run on.
    pub server_cpus: Option<String>,
    /// Cores the generator may run on.
    pub generator_cpus: Option<String>,
    /// Connect and disconnect rounds before the measured one.
    pub waves: usize,
    /// Seconds from the first connect until all clients were ready.
    pub connect_s: f64,
    /// Publishes per second asked for; 0 is the closed loop.
    pub rate_per_s: f64,
    /// Bytes of padding in each event.
    pub payload_bytes: usize,
    /// Events published.
    pub publishes: u64,
    /// Publishes sent more than one period behind schedule, because the server had not answered
    /// the one before or the generator was busy.
    pub publishes_late: u64,
    /// Deliveries there should be: publishes × connections.
    pub deliveries_expected: u64,
    /// Deliveries that arrived.
    pub deliveries_received: u64,
    /// Deliveries that never came, counted connection by connection.
    pub deliveries_lost: u64,
    /// Frames that a client had before, or that were never published.
    pub deliveries_duplicate: u64,
    /// Bytes on the wire per delivery, HTTP and SSE framing included.
    pub bytes_per_delivery: f64,
    /// Seconds from the first publish to the last delivery.
    pub window_s: f64,
    /// Deliveries received per second of the window.
    pub deliveries_per_s: f64,
    /// Latency from publish to client.
    pub latency: Option<Latency>,
    /// CPU seconds (user and kernel) the server used from the first publish to the end.
    pub server_cpu_s: Option<f64>,
    /// The same in µs per delivery received.
    pub server_cpu_us_per_delivery: Option<f64>,
    /// Share of one core the generator used; near 1 it was the bottleneck itself.
    pub generator_cpu_share: Option<f64>,
    /// Server memory before the first connection, in KiB.
    pub rss_before_kib: Option<u64>,
    /// Server memory after each wave had disconnected, in KiB.
    pub rss_waves_kib: Vec<u64>,
    /// Growth from before to each wave with all its clients connected, in KiB per connection.
    pub rss_waves_per_connection_kib: Vec<f64>,
    /// Server memory with all clients connected and nothing published, in KiB.
    pub rss_idle_kib: Option<u64>,
    /// Server memory after the run, clients still connected, in KiB.
    pub rss_after_kib: Option<u64>,
    /// Growth from before to idle, in KiB per connection.
    pub rss_idle_per_connection_kib: Option<f64>,
    /// Growth from before to after the run, in KiB per connection.
    pub rss_after_per_connection_kib: Option<f64>,
    /// Growth from before to after a burst of large events, in KiB per connection.
    pub rss_burst_per_connection_kib: Option<f64>,
    /// Deliveries of that burst that never came.
    pub burst_deliveries_lost: u64,
    /// Frames of that burst that a client had before, or that were never published.
    pub burst_deliveries_duplicate: u64,
    /// Growth of the memory of all TCP sockets of the machine from before to idle, both ends of each
    /// connection, in KiB per connection.
    pub tcp_mem_idle_per_connection_kib: Option<f64>,
    /// Memory of all TCP sockets of the machine before the first connection, in pages.
    pub tcp_mem_before_pages: Option<u64>,
    /// The same with all clients connected and nothing published, in pages.
    pub tcp_mem_idle_pages: Option<u64>,
    /// The same after the run, in pages.
    pub tcp_mem_after_pages: Option<u64>,
}

impl FanoutReport {
    /// The figures as lines of text, one or a few to a line, with their units.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.delivery_rows(&mut out);
        self.server_rows(&mut out);
        out
    }

    fn delivery_rows(&self, out: &mut String) {
        let rate = match self.rate_per_s {
            rate if rate > 0.0 => format!("{rate}/s asked"),
            _ => "closed loop".to_owned(),
        };
        let latency = self.latency.as_ref().map_or("-".to_owned(), |latency| {
            let Latency { p50_ms, p95_ms, p99_ms, max_ms, samples } = latency;
            format!(
                "p50 {p50_ms:.2}, p95 {p95_ms:.2}, p99 {p99_ms:.2}, max {max_ms:.2} ms ({samples} samples)"
            )
        });
        let rows = [
            (
                "connections",
                format!(
                    "{} in {:.2} s, {} dropped",
                    self.connections, self.connect_s, self.connections_dropped
                ),
            ),
            (
                "publishes",
                format!(
                    "{} ({rate}, {} late) on {} topics over {} connections",
                    self.publishes, self.publishes_late, self.topics, self.publishers
                ),
            ),
            (
                "deliveries",
                format!(
                    "{} of {} expected, {} lost, {} twice",
                    self.deliveries_received,
                    self.deliveries_expected,
                    self.deliveries_lost,
                    self.deliveries_duplicate
                ),
            ),
            ("bytes per delivery", format!("{:.0}", self.bytes_per_delivery)),
            ("deliveries per second", format!("{:.0} over {:.2} s", self.deliveries_per_s, self.window_s)),
            ("latency", latency),
        ];
        write_rows(out, &rows);
    }

    fn server_rows(&self, out: &mut String) {
        let three =
            |before, idle, after| format!("before {}, idle {}, after {}", int(before), int(idle), int(after));
        let memory = three(self.rss_before_kib, self.rss_idle_kib, self.rss_after_kib);
        let kernel = three(self.tcp_mem_before_pages, self.tcp_mem_idle_pages, self.tcp_mem_after_pages);
        let rows = [
            (
                "server CPU per delivery",
                format!(
                    "{} µs ({} s in all)",
                    float(self.server_cpu_us_per_delivery),
                    float(self.server_cpu_s)
                ),
            ),
            (
                "cores",
                format!(
                    "server {}, generator {} (used {} of one)",
                    self.server_cpus.as_deref().unwrap_or("-"),
                    self.generator_cpus.as_deref().unwrap_or("-"),
                    float(self.generator_cpu_share)
                ),
            ),
            ("server memory", format!("{memory} KiB; after each wave {:?}", self.rss_waves_kib)),
            (
                "growth per connection",
                format!(
                    "waves {:.2?}, idle {}, after {}, after a burst of large events {} KiB",
                    self.rss_waves_per_connection_kib,
                    float(self.rss_idle_per_connection_kib),
                    float(self.rss_after_per_connection_kib),
                    float(self.rss_burst_per_connection_kib)
                ),
            ),
            (
                "kernel TCP memory",
                format!(
                    "{kernel} pages of all sockets of the machine; idle {} KiB per connection",
                    float(self.tcp_mem_idle_per_connection_kib)
                ),
            ),
        ];
        write_rows(out, &rows);
    }
}

pub(super) fn write_rows(out: &mut String, rows: &[(&str, String)]) {
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<24}{value}");
    }
}

fn int(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn float(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let latency = Latency::of((1..=200).rev().map(|n| n * 1000).collect()).unwrap();
        assert_eq!((latency.p50_ms, latency.p95_ms), (100.0, 190.0));
        assert_eq!((latency.p99_ms, latency.max_ms), (198.0, 200.0));
        assert!(Latency::of(Vec::new()).is_none());
        assert_eq!(Latency::of(vec![5]).unwrap().p50_ms, 0.005);
    }
}
