//! A few figures of all nodes together, as dashboards show them; each node samples its counters once a second.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Seconds of the past that rates and means are of.
const SPAN: usize = 10;
/// Figures older than this are those of no node any more.
pub const FRESH: Duration = Duration::from_secs(5);

/// What a node has open, and has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections.
    pub connections: u64,
    /// Events accepted.
    pub published: u64,
    /// Frames handed to a socket, replays left out.
    pub delivered: u64,
    /// How long these had waited since they were accepted, together, microseconds.
    pub waited_us: u64,
    /// Frames that did not reach their client and appends that were refused.
    pub failed: u64,
}

/// What one node has open, and did within the last ten seconds; one of another release may not say all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFigures {
    connections: u64,
    published: u64,
    delivered: u64,
    waited_us: u64,
    failed: u64,
    span_us: u64,
}

/// What all nodes have open, and did within the last ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Open connections.
    pub active_connections: u64,
    /// Events accepted: of a cluster since its Redis was started, of one process since that was.
    pub total_messages_published: u64,
    /// Events accepted a second.
    pub messages_per_second: f64,
    /// From an event's acceptance to its frame at a client's socket, mean, milliseconds; 0 when there was none.
    pub average_message_latency: f64,
    /// Share of what failed in what was to be delivered or appended, 0–1.
    pub error_rate: f64,
}

impl Figures {
    /// Those of several nodes, which have together accepted `total` events.
    pub fn of(total: u64, nodes: &[NodeFigures]) -> Self {
        let sum = |part: fn(&NodeFigures) -> u64| nodes.iter().map(part).sum::<u64>();
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let (delivered, failed) = (sum(|own| own.delivered), sum(|own| own.failed));
        Figures {
            active_connections: sum(|own| own.connections),
            total_messages_published: total,
            messages_per_second: nodes.iter().map(|own| share(own.published, own.span_us) * 1e6).sum(),
            average_message_latency: share(sum(|own| own.waited_us), delivered) / 1e3,
            error_rate: share(failed, delivered + failed),
        }
    }
}

/// A node's counters over the last ten seconds.
#[derive(Debug, Default)]
pub struct Samples(VecDeque<(Instant, Counts)>);

impl Samples {
    /// Adds what the counters say now; what was done since the oldest sample that is kept, and how many events
    /// were accepted since the last.
    pub fn add(&mut self, now: Instant, counts: Counts) -> (NodeFigures, u64) {
        let last = self.0.back().map_or(0, |(_, last)| last.published);
        if self.0.len() > SPAN {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
        let (since, oldest) = self.0[0];
        let figures = NodeFigures {
            connections: counts.connections,
            published: counts.published - oldest.published,
            delivered: counts.delivered - oldest.delivered,
            // a sum of floats that was rounded
            waited_us: counts.waited_us.saturating_sub(oldest.waited_us),
            failed: counts.failed - oldest.failed,
            span_us: (now - since).as_micros() as u64,
        };
        (figures, counts.published - last)
    }
}

/// Where the newest figures are shown.
#[derive(Debug, Default)]
pub struct FigureBoard {
    connections: AtomicI64,
    shown: Mutex<Option<(Instant, Figures)>>,
}

impl FigureBoard {
    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn open_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed).max(0) as u64
    }

    /// These are the figures now.
    pub fn show(&self, figures: Figures) {
        *self.shown.lock().expect("no panic while held") = Some((Instant::now(), figures));
    }

    /// The newest figures; None when nobody has had any for five seconds.
    pub fn read(&self) -> Option<Figures> {
        let shown = *self.shown.lock().expect("no panic while held");
        shown.filter(|(at, _)| at.elapsed() < FRESH).map(|(_, figures)| figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: u64, published: u64, delivered: u64, waited_us: u64, failed: u64) -> Counts {
        Counts { connections, published, delivered, waited_us, failed }
    }

    #[test]
    fn rates_and_means_are_of_the_last_ten_seconds_and_of_all_nodes() {
        let start = Instant::now();
        let second = |number: u64| start + Duration::from_secs(number);
        let mut samples = Samples::default();
        assert_eq!(samples.add(start, counts(1, 7, 0, 0, 0)).1, 7);
        for number in 1..=20 {
            let (_, new) =
                samples.add(second(number), counts(3, 7 + 5 * number, 10 * number, 400 * number, number));
            assert_eq!(new, 5);
        }
        let (busy, new) = samples.add(second(20), counts(3, 107, 200, 8_000, 20));
        assert_eq!(
            (new, busy.published, busy.span_us),
            (0, 45, 9_000_000),
            "eleven samples, ten of them apart"
        );
        let idle = Samples::default().add(start, counts(2, 0, 0, 0, 0)).0;
        let figures = Figures::of(1234, &[busy, idle]);
        assert_eq!((figures.active_connections, figures.total_messages_published), (5, 1234));
        assert_eq!(figures.messages_per_second, 5.0);
        assert_eq!(figures.average_message_latency, 0.04);
        assert_eq!(figures.error_rate, 9.0 / 99.0);
    }

    #[test]
    fn a_node_that_does_nothing_has_no_rates() {
        let figures = Figures::of(0, &[NodeFigures::default()]);
        assert_eq!(
            (figures.messages_per_second, figures.average_message_latency, figures.error_rate),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(FigureBoard::default().read(), None);
    }
}
