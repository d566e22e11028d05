use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::metrics::{GaugeF64, latency};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    state: String,
    channel: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

const UNFINISHED: [&str; 4] = ["pending", "sending", "retry", "dead"];
const OUTCOMES: [&str; 5] = ["done", "retry", "dead", "abandoned", "late"];

/// Metrics of jobs: those of the database, which all nodes show alike, and what this node has done.
#[derive(Debug)]
pub struct JobMetrics {
    jobs: Family<Place, Gauge>,
    oldest: Family<Place, GaugeF64>,
    attempts: Family<Ended, Counter>,
    seconds: Family<OfKind, Histogram, fn() -> Histogram>,
    /// Where there have been any: there may be none any more.
    places: Mutex<HashSet<Place>>,
}

impl JobMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = JobMetrics {
            jobs: Family::default(),
            oldest: Family::default(),
            attempts: Family::default(),
            seconds: Family::new_with_constructor(latency as fn() -> Histogram),
            places: Mutex::default(),
        };
        registry.register("jobs", "Jobs that are not done", own.jobs.clone());
        registry.register(
            "jobs_oldest_seconds",
            "How long the oldest of them has been due",
            own.oldest.clone(),
        );
        registry.register("job_attempts", "Attempts at jobs by what came of them", own.attempts.clone());
        registry.register("job_seconds", "Duration of an attempt", own.seconds.clone());
        own
    }

    /// These kinds and channels will be told of.
    pub fn expect(&self, kinds: impl Iterator<Item = (&'static str, &'static str)>) {
        let mut places = self.places.lock().expect("no panic while held");
        for (kind, channel) in kinds {
            for outcome in OUTCOMES {
                self.attempts.get_or_create_owned(&Ended { kind, outcome });
            }
            self.seconds.get_or_create_owned(&OfKind { kind });
            places.extend(
                UNFINISHED.map(|state| Place { state: state.to_owned(), channel: channel.to_owned() }),
            );
        }
        drop(places);
        self.show(&[]);
    }

    /// How many jobs there are, by state and channel, and how long the oldest has been due.
    pub fn show(&self, figures: &[(String, String, i64, Duration)]) {
        let mut places = self.places.lock().expect("no panic while held");
        let at = |state: &str, channel: &str| Place { state: state.to_owned(), channel: channel.to_owned() };
        places.extend(figures.iter().map(|(state, channel, ..)| at(state, channel)));
        for place in places.iter() {
            let own = figures.iter().find(|(state, channel, ..)| at(state, channel) == *place);
            self.jobs.get_or_create(place).set(own.map_or(0, |(_, _, count, _)| *count));
            let age = own.map_or(0.0, |(_, _, _, age)| age.as_secs_f64());
            self.oldest.get_or_create(place).set(age);
        }
    }

    /// An attempt ended.
    pub fn ended(&self, kind: &'static str, outcome: &'static str) {
        self.attempts.get_or_create(&Ended { kind, outcome }).inc();
    }

    /// An attempt took so long.
    pub fn took(&self, kind: &'static str, seconds: f64) {
        self.seconds.get_or_create(&OfKind { kind }).observe(seconds);
    }
}
