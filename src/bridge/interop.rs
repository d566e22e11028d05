//! What other services publish on Redis, as events: the shapes of the systems that Bongsu replaces.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::domain::{
    Class, Decimal, EntityId, EventName, EventNameError, Timestamp, Topic, TopicKind, UserSub,
};
use crate::log::{Dedup, NewEvent};
use crate::wire;

/// The channels that are always listened to.
pub(super) const CHANNELS: [&str; 6] = [
    "channel:ei:updates",
    "channel:bid:status",
    "channel:proposal:ranking",
    "channel:order:status",
    "channel:events",
    "user-events",
];
/// The channels of the rankings of single bids, as Redis matches them.
pub(super) const RANKINGS: &str = "channel:bid:*:proposal_ranking";
/// The field that names the cluster which a message comes from.
pub(super) const SOURCE: &str = "_src";

/// Events of one batch, at most; as many as `POST /v2/events/batch` takes.
const MOST_EVENTS: usize = 1000;
/// A ranking comes on two channels within this time.
const COPIES: Duration = Duration::from_secs(1);
/// Most bytes of a status or a grade.
const WORD: usize = 64;
/// The last moment that RFC 3339 can write, milliseconds since 1970.
const LAST_MILLIS: i64 = 253_402_300_799_999;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// Why a message, or one event of a batch, does not enter the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Unfit {
            $($(#[$doc])* $name,)+
        }

        impl Unfit {
            /// Every reason as the metrics name it.
            pub const ALL: &[&str] = &[$($word),+];

            /// The reason as the metrics name it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Unfit::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// Larger than any message may be.
    TooLarge = "too_large",
    /// Nested too deeply.
    TooDeep = "too_deep",
    /// No UTF-8, or no JSON.
    NotJson = "not_json",
    /// JSON of another kind than an object.
    NotAnObject = "not_an_object",
    /// A field that has to be there is not.
    MissingField = "missing_field",
    /// A field of a type that makes no sense, or two that contradict each other.
    InvalidField = "invalid_field",
    /// No id.
    InvalidId = "invalid_id",
    /// No exact decimal, or a negative one.
    InvalidNumber = "invalid_number",
    /// No moment.
    InvalidTime = "invalid_time",
    /// No name of an event.
    InvalidName = "invalid_name",
    /// The name of something that a transport says.
    ReservedName = "reserved_name",
    /// A batch of too many events.
    TooManyEvents = "too_many_events",
    /// This cluster has sent it itself.
    Own = "own",
}

/// What is known of the channels and their messages.
#[derive(Clone, Debug)]
pub struct Interop {
    /// Channels of this installation, and where their messages go.
    pub channels: HashMap<String, Topic>,
    /// What this cluster calls itself in `_src`.
    pub source: String,
    /// Largest message, bytes.
    pub message_bytes: usize,
    /// How deep a message may be nested.
    pub depth: usize,
}

type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// One event; or what stands against it.
type Read = Result<NewEvent, Unfit>;

impl Interop {
    /// The events of a message, in order; each stands for itself.
    pub fn read(&self, channel: &str, bytes: &[u8]) -> Vec<Read> {
        self.message(channel, bytes).unwrap_or_else(|unfit| vec![Err(unfit)])
    }

    fn message(&self, channel: &str, bytes: &[u8]) -> Result<Vec<Read>, Unfit> {
        if bytes.len() > self.message_bytes {
            return Err(Unfit::TooLarge);
        }
        if wire::is_deeper_than(bytes, self.depth) {
            return Err(Unfit::TooDeep);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Unfit::NotJson)?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|_| Unfit::NotJson)?;
        if let Some(topic) = self.channels.get(channel) {
            return Ok(vec![self.named(raw, topic.clone())]);
        }
        let event = match channel {
            "channel:events" => return self.mixed(raw),
            "channel:ei:updates" => ei(&self.object(raw)?),
            "channel:bid:status" => bid(&self.object(raw)?),
            "channel:proposal:ranking" => ranking(&self.object(raw)?, None),
            "channel:order:status" => order(&self.object(raw)?),
            "user-events" => of_user(&self.object(raw)?),
            _ => {
                let (before, after) = RANKINGS.split_once('*').expect("a pattern");
                let bid = channel.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                ranking(&self.object(raw)?, Some(bid.ok_or(Unfit::InvalidField)?))
            }
        };
        Ok(vec![event])
    }

    /// `channel:events`: one event of any kind, or a batch of them.
    fn mixed(&self, raw: &RawValue) -> Result<Vec<Read>, Unfit> {
        let topic = Topic::of(TopicKind::Named, &EntityId::parse("events").expect("an id"));
        let element = |raw: &RawValue| {
            let Ok(fields) = object(raw) else { return self.named(raw, topic.clone()) };
            self.not_own(&fields)?;
            let has = |names: [&str; 2]| names.iter().all(|name| present(&fields, name).is_some());
            if has(["fleet_id", "new_ei"]) {
                ei(&fields)
            } else if has(["bid_id", "ranked_proposals"]) {
                ranking(&fields, None)
            } else if has(["bid_id", "new_status"]) {
                bid(&fields)
            } else if has(["order_id", "new_status"]) {
                order(&fields)
            } else if has(["userId", "eventType"]) {
                of_user(&fields)
            } else {
                self.named(raw, topic.clone())
            }
        };
        let fields = object(raw).unwrap_or_default();
        let is_batch = present(&fields, "type").is_some_and(|kind| kind.get() == "\"batch\"");
        let Some(events) = present(&fields, "events").filter(|_| is_batch) else {
            return Ok(vec![element(raw)]);
        };
        self.not_own(&fields)?;
        let events: Vec<&RawValue> = serde_json::from_str(events.get()).map_err(|_| Unfit::InvalidField)?;
        if events.len() > MOST_EVENTS {
            return Err(Unfit::TooManyEvents);
        }
        Ok(events.into_iter().map(element).collect())
    }

    /// An event that goes by the name it brings.
    fn named(&self, raw: &RawValue, topic: Topic) -> Read {
        let fields = if raw.get().starts_with('{') { self.object(raw)? } else { Fields::new() };
        let name = match present(&fields, "eventType").or_else(|| present(&fields, "type")) {
            Some(own) => name(own)?,
            None => EventName::trusted("event"),
        };
        Ok(event(topic, name, Class::Durable, wire::compact(raw)))
    }

    /// The fields of what another has sent.
    fn object<'a>(&self, raw: &'a RawValue) -> Result<Fields<'a>, Unfit> {
        let fields = object(raw)?;
        self.not_own(&fields)?;
        Ok(fields)
    }

    fn not_own(&self, fields: &Fields<'_>) -> Result<(), Unfit> {
        let source = present(fields, SOURCE).and_then(|source| text(source).ok());
        if source.as_ref() == Some(&self.source) { Err(Unfit::Own) } else { Ok(()) }
    }
}

/// Of fields that come twice the last one counts, as for those who read them by `JSON.parse`.
fn object(raw: &RawValue) -> Result<Fields<'_>, Unfit> {
    if !raw.get().starts_with('{') {
        return Err(Unfit::NotAnObject);
    }
    // what is no text a field cannot be called
    serde_json::from_str(raw.get()).map_err(|_| Unfit::NotJson)
}

fn present<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a RawValue> {
    fields.get(name).copied().filter(|value| value.get() != "null")
}

fn required<'a>(fields: &Fields<'a>, name: &str) -> Result<&'a RawValue, Unfit> {
    present(fields, name).ok_or(Unfit::MissingField)
}

fn text(raw: &RawValue) -> Result<String, Unfit> {
    serde_json::from_str(raw.get()).map_err(|_| Unfit::InvalidField)
}

/// Ids were texts or whole numbers.
fn id_text(raw: &RawValue) -> Result<String, Unfit> {
    let is_number = raw.get().bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Ok(raw.get().to_owned()) } else { text(raw).map_err(|_| Unfit::InvalidId) }
}

fn id(fields: &Fields<'_>, name: &str) -> Result<EntityId, Unfit> {
    EntityId::parse(&id_text(required(fields, name)?)?).map_err(|_| Unfit::InvalidId)
}

fn name(raw: &RawValue) -> Result<EventName, Unfit> {
    EventName::parse(&text(raw).map_err(|_| Unfit::InvalidName)?).map_err(|error| match error {
        EventNameError::Reserved => Unfit::ReservedName,
        EventNameError::Malformed => Unfit::InvalidName,
    })
}

fn intensity(raw: &RawValue) -> Result<String, Unfit> {
    let decimal = Decimal::parse(raw.get()).map_err(|_| Unfit::InvalidNumber)?;
    if decimal.is_negative() { Err(Unfit::InvalidNumber) } else { Ok(decimal.to_string()) }
}

/// A short text as JSON.
fn word(raw: &RawValue) -> Result<String, Unfit> {
    let word = text(raw)?;
    match (1..=WORD).contains(&word.len()) {
        true => Ok(serde_json::to_string(&word).expect("a text")),
        false => Err(Unfit::InvalidField),
    }
}

/// As JSON, null where it is missing.
fn optional(
    fields: &Fields<'_>,
    name: &str,
    read: fn(&RawValue) -> Result<String, Unfit>,
) -> Result<String, Unfit> {
    present(fields, name).map_or(Ok("null".to_owned()), read)
}

/// When it happened: RFC 3339, or milliseconds since 1970.
fn moment(fields: &Fields<'_>) -> Result<Timestamp, Unfit> {
    let raw = present(fields, "timestamp").or_else(|| present(fields, "publishedAt"));
    let raw = raw.ok_or(Unfit::MissingField)?;
    let at = match raw.get().parse::<i64>() {
        Ok(millis) => (0..=LAST_MILLIS).contains(&millis).then(|| Timestamp::from_micros(millis * 1000)),
        Err(_) => text(raw).ok().and_then(|text| Timestamp::parse(&text)),
    };
    at.ok_or(Unfit::InvalidTime)
}

fn event(topic: Topic, name: EventName, class: Class, data: impl Into<Arc<str>>) -> NewEvent {
    let data = data.into();
    NewEvent { topic, name, class, key: None, version: None, ttl: None, dedup: None, data, public: None }
}

/// An event of an entity, under one of the product's own names.
fn of_entity(kind: TopicKind, id: &EntityId, name: &str, data: String) -> NewEvent {
    event(Topic::of(kind, id), EventName::trusted(name), Class::Durable, data)
}

/// The newest of an entity.
fn newest(id: &EntityId, event: NewEvent) -> NewEvent {
    NewEvent { class: Class::Latest, key: Some(id.as_str().to_owned()), ..event }
}

// ids, decimals and moments hold no character that JSON would have to escape

fn ei(fields: &Fields<'_>) -> Read {
    let fleet = id(fields, "fleet_id")?;
    let (old, new) = (optional(fields, "old_ei", intensity)?, intensity(required(fields, "new_ei")?)?);
    let (grade, at) = (optional(fields, "ei_grade", word)?, moment(fields)?);
    let data = format!(
        "{{\"fleet_id\":\"{fleet}\",\"old_ei\":{old},\"new_ei\":{new},\"ei_grade\":{grade},\
         \"timestamp\":\"{at}\",\"version\":null}}"
    );
    Ok(newest(&fleet, of_entity(TopicKind::Fleet, &fleet, "ei_updated", data)))
}

fn bid(fields: &Fields<'_>) -> Read {
    let bid = id(fields, "bid_id")?;
    let data = format!("{{\"bid_id\":\"{bid}\",{}}}", status(fields)?);
    Ok(of_entity(TopicKind::Bid, &bid, "bid_status_changed", data))
}

fn order(fields: &Fields<'_>) -> Read {
    let order = id(fields, "order_id")?;
    let tracking = match present(fields, "tracking_event") {
        Some(own) if own.get().starts_with('{') => format!(",\"tracking_event\":{}", wire::compact(own)),
        Some(_) => return Err(Unfit::InvalidField),
        None => String::new(),
    };
    let data = format!("{{\"order_id\":\"{order}\",{}{tracking}}}", status(fields)?);
    Ok(of_entity(TopicKind::Order, &order, "order_status_changed", data))
}

fn status(fields: &Fields<'_>) -> Result<String, Unfit> {
    let (old, new) = (optional(fields, "old_status", word)?, word(required(fields, "new_status")?)?);
    let at = moment(fields)?;
    Ok(format!("\"old_status\":{old},\"new_status\":{new},\"updated_at\":\"{at}\",\"version\":null"))
}

/// `of` is the bid that the channel names.
fn ranking(fields: &Fields<'_>, of: Option<&str>) -> Read {
    let bid = match of {
        Some(of) => EntityId::parse(of).map_err(|_| Unfit::InvalidId)?,
        None => id(fields, "bid_id")?,
    };
    if present(fields, "bid_id").is_some() && id(fields, "bid_id")? != bid {
        return Err(Unfit::InvalidField);
    }
    let raw = required(fields, "ranked_proposals")?;
    let rows: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| Unfit::InvalidField)?;
    if rows.iter().any(|row| !row.get().starts_with('{')) {
        return Err(Unfit::InvalidField);
    }
    let (total, rows, at) = (rows.len(), wire::compact(raw), moment(fields)?);
    let data = format!(
        "{{\"bid_id\":\"{bid}\",\"version\":null,\"total\":{total},\"from_version\":null,\
         \"ranked_proposals\":{rows},\"moves\":null,\"timestamp\":\"{at}\"}}"
    );
    let dedup = Dedup { key: format!("ranking {} {}", at.micros(), hash_of(&rows)), window: COPIES };
    let event = of_entity(TopicKind::Ranking, &bid, "proposal_ranking_updated", data);
    Ok(NewEvent { dedup: Some(dedup), ..newest(&bid, event) })
}

/// Tells rows apart that have one time in common.
fn hash_of(rows: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    hasher.finish()
}

fn of_user(fields: &Fields<'_>) -> Read {
    let user = UserSub::parse(&id_text(required(fields, "userId")?)?).map_err(|_| Unfit::InvalidId)?;
    let name = name(required(fields, "eventType")?)?;
    let data = match present(fields, "data") {
        Some(data) if data.get().starts_with('{') => wire::compact(data),
        Some(_) => return Err(Unfit::InvalidField),
        None => "{}".into(),
    };
    Ok(event(Topic::user(&user), name, Class::Durable, data))
}
