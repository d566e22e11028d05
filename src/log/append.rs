use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Class, EventName, Origin, Position, Refusal, RefusalKind, TenantId, Timestamp, Topic};
use crate::storage::{LogRow, SharedText};
use crate::telemetry::current_origin;
use crate::wire::{Content, Event, EventParts};

/// An event that somebody wants delivered.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The topic to send it on.
    pub topic: Topic,
    /// Its name.
    pub name: EventName,
    /// How much of its history matters.
    pub class: Class,
    /// What a `latest` event is the newest of, and what `version` counts.
    pub key: Option<String>,
    /// Refused unless greater than the one stored under (topic, name, key).
    pub version: Option<i64>,
    /// How long it is worth sending, from the append on.
    pub ttl: Option<Duration>,
    /// Names the event, so that a second publish delivers nothing.
    pub dedup: Option<Dedup>,
    /// Compact JSON.
    pub data: Arc<str>,
    /// What viewers without full rights see, where that differs; compact JSON.
    pub public: Option<Arc<str>>,
}

impl NewEvent {
    /// What it takes in the log, bytes; the data as if it shared it with nobody.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.public.as_ref().map_or(0, |public| public.len()) + 128
    }

    /// Whether it is live only.
    pub fn is_volatile(&self) -> bool {
        self.class == Class::Volatile
    }
}

/// A name for one event within a topic, and how long it is remembered.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// The name.
    pub key: String,
    /// How long a repetition is recognised.
    pub window: Duration,
}

/// What is known of the request that an event comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The request, where somebody follows it.
    pub origin: Option<Arc<Origin>>,
    /// When it was accepted.
    pub accepted: Instant,
}

impl Source {
    /// The request under way, accepted just now.
    pub fn current() -> Self {
        Source { origin: current_origin(), accepted: Instant::now() }
    }
}

/// Makes a repeated request get the stored answer.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// Who asks: keys of different principals do not meet.
    pub principal: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// Hash of the request's body.
    pub request_hash: String,
    /// How long the answer is kept.
    pub keep: Duration,
}

/// Groups of events of one tenant; each group is appended whole and in order, or not at all.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// Whose log.
    pub tenant: TenantId,
    /// One group per event asked for: its entry on each of its topics.
    pub groups: Vec<Vec<NewEvent>>,
    /// Set when the request carries an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

impl AppendRequest {
    /// What it takes in the log, bytes.
    pub fn bytes(&self) -> usize {
        self.groups.iter().flatten().map(NewEvent::bytes).sum()
    }

    /// What it takes in memory, bytes: the entries of a group share their data.
    pub(super) fn held_bytes(&self) -> usize {
        let of_group = |group: &Vec<NewEvent>| {
            group.first().map_or(0, NewEvent::bytes) + group.len() * std::mem::size_of::<NewEvent>()
        };
        self.groups.iter().map(of_group).sum()
    }
}

/// What became of one group.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Appended {
    /// It is in the log, or was sent to those who listen when it was volatile.
    At {
        /// Number of its last entry; 0 when it was volatile.
        seq: u64,
        /// Whether every entry had been there before.
        duplicate: bool,
    },
    /// A version was not greater than the stored one: nothing was appended.
    Stale {
        /// The stored one.
        stored: i64,
    },
}

/// Why a request was not carried out at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log cannot take anything now; nothing was appended.
    #[error("the event log is unavailable: {0}")]
    Unavailable(String),
    /// Nobody knows whether it was appended.
    #[error("the event log did not answer: the events may have been published")]
    InDoubt,
    /// The request's entries are more than the log takes at once.
    #[error("the entries take {bytes} bytes in the log, at most {most} are taken at once")]
    TooLarge {
        /// What they take.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// As many publishes wait as may wait.
    #[error("too many publishes wait for the event log")]
    Overloaded,
    /// What was answered to the same request before cannot be read any more.
    #[error("the answer that is stored for this Idempotency-Key cannot be read")]
    Unreadable,
    /// The same `Idempotency-Key` came with another body before.
    #[error("the Idempotency-Key was used with another request")]
    KeyReused,
    /// A request with the same `Idempotency-Key` is under way.
    #[error("a request with this Idempotency-Key is in progress")]
    InProgress,
}

/// The row of an entry that gets `seq`.
pub(super) fn to_row(tenant: &TenantId, seq: u64, now: Timestamp, event: &NewEvent) -> LogRow {
    LogRow {
        tenant: tenant.as_str().to_owned(),
        seq: seq as i64,
        topic: event.topic.as_str().to_owned(),
        name: event.name.as_str().to_owned(),
        class: event.class.as_str().to_owned(),
        key: event.key.clone(),
        version: event.version,
        at_us: now.micros(),
        expires_us: event.ttl.map(|ttl| now.plus(ttl).micros()),
        bytes: event.bytes() as i64,
        data: SharedText(event.data.clone()),
        public: event.public.clone().map(SharedText),
    }
}

/// The event of a stored row; None when the row is damaged.
pub(super) fn to_event(epoch: crate::domain::Epoch, row: LogRow) -> Option<Event> {
    Some(Event::new(EventParts {
        position: Some(Position { epoch, seq: u64::try_from(row.seq).ok()? }),
        topic: Topic::parse(&row.topic).ok()?,
        name: EventName::trusted(&row.name),
        class: Class::parse(&row.class)?,
        key: row.key.map(String::into_boxed_str),
        version: row.version,
        at: Timestamp::from_micros(row.at_us),
        expires_at: row.expires_us.map(Timestamp::from_micros),
        full: Content::new(row.data.0),
        public: row.public.map(|public| Content::new(public.0)),
    }))
}

/// The event of a volatile publish: live only.
pub(super) fn to_volatile(event: NewEvent, now: Timestamp) -> Event {
    Event::new(EventParts {
        position: None,
        topic: event.topic,
        name: event.name,
        class: Class::Volatile,
        key: event.key.map(String::into_boxed_str),
        version: event.version,
        at: now,
        expires_at: event.ttl.map(|ttl| now.plus(ttl)),
        full: Content::new(event.data),
        public: event.public.map(Content::new),
    })
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        let detail = error.to_string();
        match error {
            LogError::Unavailable(_) => Refusal::new(
                RefusalKind::Unavailable,
                "log_unavailable",
                "the event log is unavailable, try again",
            ),
            LogError::InDoubt => Refusal::new(
                RefusalKind::Unavailable,
                "log_in_doubt",
                "the event log did not answer: the events may have been published; the same Idempotency-Key \
                 makes it safe to try again",
            ),
            LogError::TooLarge { .. } => Refusal::new(RefusalKind::TooLarge, "request_too_large", detail),
            LogError::Overloaded => Refusal::new(RefusalKind::Unavailable, "overloaded", detail),
            LogError::Unreadable => Refusal::new(RefusalKind::Internal, "internal", detail),
            LogError::KeyReused => Refusal::new(RefusalKind::Invalid, "idempotency_key_reused", detail),
            LogError::InProgress => {
                Refusal::new(RefusalKind::Conflict, "idempotency_key_in_progress", detail)
            }
        }
    }
}
