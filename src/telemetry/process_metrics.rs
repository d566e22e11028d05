use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::GaugeF64;

/// What the operating system says about the process.
#[derive(Debug, Default)]
pub(super) struct ProcessMetrics {
    resident_bytes: Gauge,
    cpu_seconds: GaugeF64,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl ProcessMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let own = ProcessMetrics::default();
        registry.register("process_resident_bytes", "Memory of the process", own.resident_bytes.clone());
        registry.register("process_cpu_seconds", "Processor time of the process", own.cpu_seconds.clone());
        registry.register("process_open_fds", "Open file descriptors of the process", own.open_fds.clone());
        registry.register(
            "process_max_fds",
            "File descriptors that the process may open; 0: no limit",
            own.max_fds.clone(),
        );
        own
    }

    /// Asks the operating system.
    pub fn read(&self) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: i64 = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        self.resident_bytes.set(pages * 4096);
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: f64 =
            after_name.split(' ').skip(11).take(2).filter_map(|text| text.parse::<f64>().ok()).sum();
        self.cpu_seconds.set(ticks / 100.0);
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_fds.set(i64::try_from(descriptors).unwrap_or(i64::MAX));
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let soft =
            limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        self.max_fds.set(soft.and_then(|text| text.parse().ok()).unwrap_or(0));
    }
}
