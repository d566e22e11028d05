//! What the nodes themselves count, read from their `/metrics`, and figures of several rounds.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

const PATIENCE: Duration = Duration::from_secs(10);

/// Counters of all nodes together, or by how much they rose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Pages of replays that were not in a window (`bongsu_log_store_reads`).
    pub store_reads: u64,
    /// Commands to Redis, the nodes' own housekeeping included (`bongsu_redis_command_seconds`).
    pub redis_commands: u64,
    /// Reads of the log for what the bus had not brought (`bongsu_log_fills`).
    pub log_fills: u64,
    /// Bytes heard from the bus (`bongsu_bus_bytes`).
    pub bus_bytes: u64,
}

impl Counts {
    fn of(text: &str) -> Self {
        let value = |line: &str, name: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let sum = |name: &str| text.lines().filter_map(|line| value(line, name)).sum::<f64>() as u64;
        Counts {
            store_reads: sum("bongsu_log_store_reads_total"),
            redis_commands: sum("bongsu_redis_command_seconds_count"),
            log_fills: sum("bongsu_log_fills_total"),
            bus_bytes: sum("bongsu_bus_bytes_total"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Counts {
            store_reads: self.store_reads + other.store_reads,
            redis_commands: self.redis_commands + other.redis_commands,
            log_fills: self.log_fills + other.log_fills,
            bus_bytes: self.bus_bytes + other.bus_bytes,
        }
    }

    /// By how much they have risen since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Counts {
            store_reads: self.store_reads.saturating_sub(before.store_reads),
            redis_commands: self.redis_commands.saturating_sub(before.redis_commands),
            log_fills: self.log_fills.saturating_sub(before.log_fills),
            bus_bytes: self.bus_bytes.saturating_sub(before.bus_bytes),
        }
    }
}

/// The present counts of nodes whose `metrics.bind` these are; none without any.
pub(super) fn read(nodes: &[SocketAddr]) -> anyhow::Result<Option<Counts>> {
    let counts = nodes.iter().map(|node| {
        scrape(*node).with_context(|| format!("no metrics from {node}")).map(|text| Counts::of(&text))
    });
    let counts = counts.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(counts.into_iter().reduce(Counts::plus))
}

fn scrape(node: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&node, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {node}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.split(' ').nth(1) == Some("200"), "{}", text.lines().next().unwrap_or("no answer"));
    Ok(text)
}

/// The median of several rounds, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds lie below.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of figures in any order; none without any.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = match figures.len() % 2 {
            0 => f64::midpoint(figures[middle - 1], figures[middle]),
            _ => figures[middle],
        };
        Some(Spread { median, min, max })
    }

    /// As text, with its spread.
    pub(super) fn text(spread: Option<Self>, digits: usize) -> String {
        spread.map_or("-".to_owned(), |Spread { median, min, max }| {
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_over_their_labels_and_told_from_those_with_longer_names() {
        let text = "# TYPE bongsu_bus_bytes counter\nbongsu_bus_bytes_total 70\nbongsu_bus_bytes_total_x 9\n\
                    bongsu_log_store_reads_total{a=\"b\"} 1\nbongsu_log_store_reads_total{a=\"c\"} 2\n";
        let counts = Counts { store_reads: 3, bus_bytes: 70, ..Counts::default() };
        assert_eq!(Counts::of(text), counts);
        assert_eq!(counts.plus(counts).since(counts), counts);
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 9.0));
        assert_eq!(Spread::of([5.0]).unwrap().median, 5.0);
        assert!(Spread::of([]).is_none());
    }
}
