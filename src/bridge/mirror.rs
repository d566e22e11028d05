//! Bongsu's own events as the systems that it replaces published them on Redis.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::interop::SOURCE;
use crate::domain::{TopicKind, UserSub};
use crate::log::NewEvent;

/// How one kind of event is published.
struct Shape {
    event: &'static str,
    topics: TopicKind,
    /// `{id}` stands for the id of the event's topic.
    channel: &'static str,
    /// What each field is called in the event, and on Redis, in order.
    fields: &'static [(&'static str, &'static str)],
    /// Those that are left out where the event has none. An event without any of the others says less than others
    /// may know: it is not published.
    optional: &'static [&'static str],
}

/// A row for each kind of event that is mirrored.
const SHAPES: &[Shape] = &[
    Shape {
        event: "ei_updated",
        topics: TopicKind::Fleet,
        channel: "channel:ei:updates",
        fields: &[
            ("fleet_id", "fleet_id"),
            ("old_ei", "old_ei"),
            ("new_ei", "new_ei"),
            ("ei_grade", "ei_grade"),
            ("timestamp", "timestamp"),
        ],
        optional: &[],
    },
    Shape {
        event: "bid_status_changed",
        topics: TopicKind::Bid,
        channel: "channel:bid:status",
        fields: &[
            ("bid_id", "bid_id"),
            ("old_status", "old_status"),
            ("new_status", "new_status"),
            ("updated_at", "timestamp"),
        ],
        optional: &[],
    },
    Shape {
        event: "proposal_ranking_updated",
        topics: TopicKind::Ranking,
        channel: "channel:bid:{id}:proposal_ranking",
        fields: &[
            ("bid_id", "bid_id"),
            ("ranked_proposals", "ranked_proposals"),
            ("total", "total"),
            ("truncated", "truncated"),
            ("timestamp", "timestamp"),
        ],
        optional: &["truncated"],
    },
    Shape {
        event: "order_status_changed",
        topics: TopicKind::Order,
        channel: "channel:order:status",
        fields: &[
            ("order_id", "order_id"),
            ("old_status", "old_status"),
            ("new_status", "new_status"),
            ("updated_at", "timestamp"),
            ("tracking_event", "tracking_event"),
        ],
        optional: &["tracking_event"],
    },
];

/// Where rankings of all bids are published, if they are.
const ALL_RANKINGS: &str = "channel:proposal:ranking";

/// Where events of users are published.
const USER_EVENTS: &str = "user-events";

/// How this cluster's own events are published for others.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    /// What this cluster calls itself.
    pub source: String,
    /// Which events of users are published, by name; a star at the end stands for any ending.
    pub user_events: Vec<String>,
    /// Whether rankings of all bids are published on one more channel.
    pub all_rankings: bool,
}

impl Mirror {
    /// The channels, a line each, and the message by which others hear of an event, if they do; `whole` is told in the
    /// place of the event's data, if that is only the beginning.
    pub fn message(&self, event: &NewEvent, whole: Option<&str>) -> Option<(String, String)> {
        let (mut channels, message) = mirror(event, whole, &self.source).or_else(|| self.of_user(event))?;
        if self.all_rankings && event.topic.kind() == TopicKind::Ranking {
            channels = format!("{channels}\n{ALL_RANKINGS}");
        }
        Some((channels, message))
    }

    fn of_user(&self, event: &NewEvent) -> Option<(String, String)> {
        let name = event.name.as_str();
        let is_named = |own: &String| match own.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == own,
        };
        if event.topic.kind() != TopicKind::User || !self.user_events.iter().any(is_named) {
            return None;
        }
        let user = percent_encoding::percent_decode_str(event.topic.id()).decode_utf8().ok()?;
        let user = serde_json::to_string(UserSub::parse(&user).ok()?.as_str()).expect("a text");
        let data = event.public.as_ref().unwrap_or(&event.data);
        let source = serde_json::to_string(&self.source).expect("a text");
        let message =
            format!("{{\"userId\":{user},\"eventType\":\"{name}\",\"data\":{data},\"{SOURCE}\":{source}}}");
        Some((USER_EVENTS.to_owned(), message))
    }
}

fn mirror(event: &NewEvent, whole: Option<&str>, source: &str) -> Option<(String, String)> {
    let is_shape = |shape: &&Shape| shape.event == event.name.as_str() && shape.topics == event.topic.kind();
    let shape = SHAPES.iter().find(is_shape)?;
    // channels of Redis are open to whoever may listen there
    let data = whole.unwrap_or_else(|| event.public.as_ref().unwrap_or(&event.data));
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_str(data).ok()?;
    if shape.optional.contains(&"truncated") && !is_whole(&fields) {
        let truncated: &RawValue = serde_json::from_str("true").expect("JSON");
        fields.insert("truncated", truncated);
    }
    let mut message = String::from("{");
    for (own, theirs) in shape.fields {
        let value = match fields.get(own) {
            Some(value) => value.get(),
            None if shape.optional.contains(own) => continue,
            None => return None,
        };
        write!(message, "\"{theirs}\":{value},").expect("a text grows");
    }
    let source = serde_json::to_string(source).expect("a text");
    write!(message, "\"{SOURCE}\":{source}}}").expect("a text grows");
    Some((shape.channel.replace("{id}", event.topic.id()), message))
}

/// Whether all the rows are there that an event counts.
fn is_whole(fields: &BTreeMap<&str, &RawValue>) -> bool {
    let rows = fields
        .get("ranked_proposals")
        .and_then(|rows| serde_json::from_str::<Vec<&RawValue>>(rows.get()).ok());
    let total = fields.get("total").and_then(|total| total.get().parse::<usize>().ok());
    rows.zip(total).is_none_or(|(rows, total)| rows.len() >= total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Class, EventName, Topic};

    fn event(name: &str, topic: &str, data: &str, public: Option<&str>) -> NewEvent {
        NewEvent {
            topic: Topic::parse(topic).unwrap(),
            name: EventName::trusted(name),
            class: Class::Latest,
            key: None,
            version: Some(7),
            ttl: None,
            dedup: None,
            data: data.into(),
            public: public.map(Into::into),
        }
    }

    const DATA: &str =
        r#"{"fleet_id":"F","old_ei":null,"new_ei":72.5,"ei_grade":"B","timestamp":"t","version":7}"#;

    #[test]
    fn an_update_is_published_with_the_fields_of_the_replaced_system_and_its_source() {
        let (channel, message) =
            mirror(&event("ei_updated", "fleet:F", DATA, None), None, "bongsu:").unwrap();
        let expected =
            r#"{"fleet_id":"F","old_ei":null,"new_ei":72.5,"ei_grade":"B","timestamp":"t","_src":"bongsu:"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:ei:updates", expected));
    }

    #[test]
    fn a_change_of_an_order_says_when_in_the_words_of_the_replaced_system() {
        let data =
            r#"{"order_id":"7","old_status":"created","new_status":"assigned","updated_at":"t","version":2}"#;
        let (channel, message) =
            mirror(&event("order_status_changed", "order:7", data, None), None, "b").unwrap();
        let expected =
            r#"{"order_id":"7","old_status":"created","new_status":"assigned","timestamp":"t","_src":"b"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:order:status", expected));
        let seen = data.replace("\"version\"", "\"tracking_event\":{\"lat\":33.50},\"version\"");
        let (_, message) = mirror(&event("order_status_changed", "order:7", &seen, None), None, "b").unwrap();
        assert!(message.contains(r#""timestamp":"t","tracking_event":{"lat":33.50},"_src""#), "{message}");
    }

    #[test]
    fn only_what_everybody_may_see_is_published() {
        let public = DATA.replace("72.5", "70");
        let (_, message) = mirror(&event("ei_updated", "fleet:F", DATA, Some(&public)), None, "b").unwrap();
        assert!(message.contains("\"new_ei\":70,"), "{message}");
    }

    #[test]
    fn of_a_sealed_bid_nothing_is_published() {
        let full = r#"{"bid_id":"B","version":1,"total":1,"ranked_proposals":[{"rank":1}],"timestamp":"t"}"#;
        let (channel, message) =
            mirror(&event("proposal_ranking_updated", "ranking:B", full, None), None, "b").unwrap();
        let expected =
            r#"{"bid_id":"B","ranked_proposals":[{"rank":1}],"total":1,"timestamp":"t","_src":"b"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:bid:B:proposal_ranking", expected));
        let sealed = r#"{"bid_id":"B","sealed":true}"#;
        assert_eq!(
            mirror(&event("proposal_ranking_updated", "ranking:B", full, Some(sealed)), None, "b"),
            None
        );
    }

    #[test]
    fn a_ranking_is_published_whole_and_on_one_more_channel_where_that_is_wanted() {
        let window = r#"{"bid_id":"B","total":3,"ranked_proposals":[{"rank":1}],"timestamp":"t"}"#;
        let whole = r#"{"bid_id":"B","total":3,"ranked_proposals":[1,2],"truncated":true,"timestamp":"u"}"#;
        let mirror = Mirror { source: "b".into(), user_events: Vec::new(), all_rankings: true };
        let event = event("proposal_ranking_updated", "ranking:B", window, None);
        let (channels, message) = mirror.message(&event, Some(whole)).unwrap();
        assert_eq!(channels, "channel:bid:B:proposal_ranking\nchannel:proposal:ranking");
        let expected = r#"{"bid_id":"B","ranked_proposals":[1,2],"total":3,"truncated":true,"timestamp":"u","_src":"b"}"#;
        assert_eq!(message, expected);
        // where the rest is not to be had
        let (_, message) = mirror.message(&event, None).unwrap();
        assert!(message.contains(r#""total":3,"truncated":true,"#), "{message}");
        let sealed = r#"{"bid_id":"B","sealed":true}"#;
        assert_eq!(mirror.message(&event, Some(sealed)), None);
    }

    #[test]
    fn events_of_users_are_published_by_the_names_that_are_configured() {
        let names = ["snapshots.*", "account.updated"].map(str::to_owned).to_vec();
        let mirror = Mirror { source: "b:".into(), user_events: names, all_rankings: false };
        let told = |name: &str, topic: &str| mirror.message(&event(name, topic, r#"{"n":1}"#, None), None);
        let message = r#"{"userId":"kim 1","eventType":"snapshots.generated","data":{"n":1},"_src":"b:"}"#;
        let expected = ("user-events".to_owned(), message.to_owned());
        assert_eq!(told("snapshots.generated", "user:kim%201"), Some(expected));
        assert!(told("account.updated", "user:a").is_some());
        for (name, topic) in [("account.closed", "user:a"), ("note", "user:a"), ("snapshots.x", "topic:a")] {
            assert_eq!(told(name, topic), None, "{name} on {topic}");
        }
    }

    #[test]
    fn what_has_no_row_is_not_published() {
        assert_eq!(mirror(&event("reset", "fleet:F", DATA, None), None, "b"), None);
        assert_eq!(mirror(&event("ei_updated", "topic:F", DATA, None), None, "b"), None);
    }
}
