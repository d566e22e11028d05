//! What Linux says in `/proc` about the server's process and about the memory of all TCP sockets.

use std::fs;
use std::time::Duration;

use anyhow::{Context, anyhow};

/// Clock ticks per second in `/proc/<pid>/stat`; every Linux port reports user time in 100ths.
const TICKS_PER_S: u64 = 100;
const PAGE_KIB: f64 = 4.0;

/// One look at the server and the kernel.
#[derive(Clone, Copy, Default)]
pub(super) struct Sample {
    /// Resident memory of the server in KiB, when its process is known.
    pub(super) rss_kib: Option<u64>,
    /// Memory of all TCP sockets of the machine in pages, both ends of each connection included.
    pub(super) tcp_mem_pages: Option<u64>,
}

impl Sample {
    /// Growth of the server's memory since `before`, KiB per connection.
    pub(super) fn rss_growth_kib(self, before: Self, connections: usize) -> Option<f64> {
        Some((self.rss_kib? as f64 - before.rss_kib? as f64) / connections as f64)
    }

    /// Growth of the sockets' memory since `before`, KiB per connection.
    pub(super) fn tcp_mem_growth_kib(self, before: Self, connections: usize) -> Option<f64> {
        let pages = self.tcp_mem_pages? as f64 - before.tcp_mem_pages? as f64;
        Some(pages * PAGE_KIB / connections as f64)
    }
}

/// Looks at one server process, or only at the kernel when there is none to look at.
pub(super) struct Probe {
    server_pid: Option<u32>,
}

impl Probe {
    pub(super) fn new(server_pid: Option<u32>) -> Self {
        Self { server_pid }
    }

    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        let rss_kib = self.server_pid.map(rss_kib).transpose()?;
        // The figure stands beside the others: a system without it still gets a report.
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Ok(Sample { rss_kib, tcp_mem_pages: parse_tcp_mem(&sockstat) })
    }

    /// CPU time the server has used so far, in user and kernel mode.
    pub(super) fn server_cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.server_pid.map(|pid| cpu(&pid.to_string())).transpose()
    }
}

/// CPU time this process has used so far, where the system tells it.
pub(super) fn own_cpu() -> Option<Duration> {
    cpu("self").ok()
}

/// The cores on which a process may run, as Linux lists them.
pub(super) fn allowed_cpus(pid: Option<u32>) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(|list| list.trim().to_owned())
}

fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("the server process {pid} is gone (or there is no /proc)"))?;
    // A process that has ended but was not waited for still has a status, without this line.
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| anyhow!("the server process {pid} has ended"))
}

fn cpu(pid: &str) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("the server process {pid} is gone (or there is no /proc)"))?;
    let ticks = parse_ticks(&text).ok_or_else(|| anyhow!("/proc/{pid}/stat is not readable"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_S).max(thread_times(pid)))
}

/// The same of the threads that still run, in ns instead of ticks; 0 where the system does not tell.
fn thread_times(pid: &str) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

/// `utime` and `stime`, the 14th and 15th field. The second field is the program's name in
/// parentheses and may itself hold spaces and parentheses, so counting begins after the last one.
fn parse_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn parse_tcp_mem(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_once(" mem ")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_hostile_program_name() {
        let stat = "7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20 0 1 0 5";
        assert_eq!(parse_ticks(stat), Some(154));
    }

    #[test]
    fn tcp_memory_is_read_from_its_own_line() {
        let text = "sockets: used 9\nTCP: inuse 3 orphan 0 tw 1 alloc 4 mem 17\nUDP: inuse 1 mem 2\n";
        assert_eq!(parse_tcp_mem(text), Some(17));
        assert_eq!(parse_tcp_mem(""), None);
    }
}
