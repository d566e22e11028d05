use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::{Class, EventName, EventNameError, Refusal, RefusalKind, Topic, TopicKind};
use crate::identity::Principal;
use crate::identity::rights::{self, Command};
use crate::log::{Dedup, NewEvent};
use crate::wire;

/// Topics of one publish, at most.
pub const MAX_TOPICS: usize = 128;
/// Events of one batch, at most.
pub const MAX_BATCH: usize = 1000;

/// Names of the product's own events; on domain topics nobody else may use them.
const RESERVED: &[&str] = &[
    "ei_updated",
    "bid_status_changed",
    "proposal_ranking_updated",
    "my_proposal_rank",
    "order_status_changed",
    "snapshots.generated",
    "account.updated",
    "schedule.published",
    "schedule.updated",
    "swap.requested",
    "swap.approved",
    "swap.rejected",
    "emergency.call",
    "notification",
    "new_question_notification",
    "new_answer",
    "answer_accepted",
    "message_status",
    "answer_notification",
    "user_typing",
    "user_stop_typing",
    "user_online",
    "user_offline",
    "nearby_questions_update",
    "slow_response_alert",
    "metrics-update",
    "hotspots-update",
];

/// One event as an application publishes it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The topic; or `topics`.
    pub topic: Option<String>,
    /// Up to 128 topics: one entry on each, in order, in one append.
    pub topics: Option<Vec<String>>,
    /// The event's name: 1–64 of `[A-Za-z0-9_.:-]`.
    #[serde(rename = "type")]
    pub name: String,
    /// Any JSON value.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    /// `durable` (default), `latest` or `volatile`.
    #[schema(value_type = Option<String>)]
    pub class: Option<Class>,
    /// What a `latest` event is the newest of, and what `version` counts.
    pub key: Option<String>,
    /// Answered 409 `stale` unless greater than the one stored for topic, type and key.
    pub version: Option<i64>,
    /// Seconds after which it is no longer worth sending.
    pub ttl_s: Option<u64>,
    /// Names the event: a second publish within the window delivers nothing.
    pub dedup_key: Option<String>,
    /// How long `dedup_key` is remembered, milliseconds; default 1000.
    pub dedup_window_ms: Option<u64>,
}

/// Limits of a publish.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// Largest encoded event, bytes.
    pub event_bytes: usize,
    /// Window of `dedup_key` where none is given.
    pub dedup_window: Duration,
}

/// Checks a publish whole and against the principal's rights; returns one entry per topic.
pub fn prepare(
    publish: Publish,
    principal: &Principal,
    limits: &PublishLimits,
) -> Result<Vec<NewEvent>, Refusal> {
    let name = EventName::parse(&publish.name).map_err(|error| {
        let refusal = Refusal::invalid("type", error);
        match error {
            EventNameError::Reserved => Refusal { code: "reserved_type", ..refusal },
            EventNameError::Malformed => refusal,
        }
    })?;
    let topics = topics(&publish, principal)?;
    if let Some(topic) = topics
        .iter()
        .find(|topic| topic.kind() != TopicKind::Named && RESERVED.contains(&publish.name.as_str()))
    {
        let detail = format!("{} on {topic} is sent by the product only", publish.name);
        return Err(
            Refusal::forbidden("reserved_type", detail).with_field("type", "is reserved on this topic")
        );
    }
    let class = publish.class.unwrap_or(Class::Durable);
    let dedup = dedup(&publish, class, limits)?;
    short("key", publish.key.as_deref())?;
    if publish.version.is_some_and(|version| version < 0) {
        return Err(Refusal::invalid("version", "must not be negative"));
    }
    if publish.ttl_s.is_some_and(|ttl| !(1..=31_536_000).contains(&ttl)) {
        return Err(Refusal::invalid("ttl_s", "must be within 1-31536000"));
    }
    let data = wire::compact(&publish.data);
    let encoded = data.len() + name.as_str().len() + publish.key.as_ref().map_or(0, String::len);
    if encoded > limits.event_bytes {
        let detail =
            format!("the event is {encoded} bytes encoded, at most {} are allowed", limits.event_bytes);
        return Err(Refusal::new(RefusalKind::TooLarge, "event_too_large", detail));
    }
    let ttl = publish.ttl_s.map(Duration::from_secs);
    let entry = |topic| NewEvent {
        topic,
        name: name.clone(),
        class,
        key: publish.key.clone(),
        version: publish.version,
        ttl,
        dedup: dedup.clone(),
        data: data.clone(),
        public: None,
    };
    Ok(topics.into_iter().map(entry).collect())
}

fn topics(publish: &Publish, principal: &Principal) -> Result<Vec<Topic>, Refusal> {
    let texts = match (&publish.topic, &publish.topics) {
        (Some(topic), None) => std::slice::from_ref(topic),
        (None, Some(topics)) if topics.is_empty() => {
            return Err(Refusal::invalid("topics", "must not be empty"));
        }
        (None, Some(topics)) if topics.len() > MAX_TOPICS => {
            return Err(Refusal::invalid("topics", format!("must be at most {MAX_TOPICS}")));
        }
        (None, Some(topics)) => topics,
        (Some(_), Some(_)) => return Err(Refusal::invalid("topics", "excludes topic")),
        (None, None) => return Err(Refusal::invalid("topic", "or topics is required")),
    };
    let field = if publish.topic.is_some() { "topic" } else { "topics" };
    let mut topics: Vec<Topic> = Vec::with_capacity(texts.len());
    for text in texts {
        let topic =
            Topic::parse(text).map_err(|error| Refusal::invalid(field, format!("{text:?}: {error}")))?;
        let command = match topic.kind() {
            TopicKind::Named => Command::PublishNamed,
            _ => Command::PublishOther,
        };
        rights::require(principal, command)?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    Ok(topics)
}

fn dedup(publish: &Publish, class: Class, limits: &PublishLimits) -> Result<Option<Dedup>, Refusal> {
    short("dedup_key", publish.dedup_key.as_deref())?;
    let window = publish.dedup_window_ms.map_or(limits.dedup_window, Duration::from_millis);
    match &publish.dedup_key {
        Some(_) if class == Class::Latest => Err(Refusal::invalid("dedup_key", "excludes class latest")),
        Some(_) if window.is_zero() || window > Duration::from_secs(86_400) => {
            Err(Refusal::invalid("dedup_window_ms", "must be within 1-86400000"))
        }
        Some(key) => Ok(Some(Dedup { key: key.clone(), window })),
        None if publish.dedup_window_ms.is_some() => {
            Err(Refusal::invalid("dedup_window_ms", "needs dedup_key"))
        }
        None => Ok(None),
    }
}

fn short(field: &str, text: Option<&str>) -> Result<(), Refusal> {
    match text {
        Some(text) if text.is_empty() || text.len() > 128 => {
            Err(Refusal::invalid(field, "must be 1-128 bytes"))
        }
        _ => Ok(()),
    }
}
