//! Bongsu's own events as the systems that it replaces published them on Redis.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::interop::SOURCE;
use crate::domain::TopicKind;
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
            ("timestamp", "timestamp"),
        ],
        optional: &[],
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

/// The channel and the message by which others hear of an event, if they do; `source` names this cluster.
pub(super) fn mirror(event: &NewEvent, source: &str) -> Option<(String, String)> {
    let is_shape = |shape: &&Shape| shape.event == event.name.as_str() && shape.topics == event.topic.kind();
    let shape = SHAPES.iter().find(is_shape)?;
    // channels of Redis are open to whoever may listen there
    let data = event.public.as_ref().unwrap_or(&event.data);
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(data).ok()?;
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
        let (channel, message) = mirror(&event("ei_updated", "fleet:F", DATA, None), "bongsu:").unwrap();
        let expected =
            r#"{"fleet_id":"F","old_ei":null,"new_ei":72.5,"ei_grade":"B","timestamp":"t","_src":"bongsu:"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:ei:updates", expected));
    }

    #[test]
    fn a_change_of_an_order_says_when_in_the_words_of_the_replaced_system() {
        let data =
            r#"{"order_id":"7","old_status":"created","new_status":"assigned","updated_at":"t","version":2}"#;
        let (channel, message) = mirror(&event("order_status_changed", "order:7", data, None), "b").unwrap();
        let expected =
            r#"{"order_id":"7","old_status":"created","new_status":"assigned","timestamp":"t","_src":"b"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:order:status", expected));
        let seen = data.replace("\"version\"", "\"tracking_event\":{\"lat\":33.50},\"version\"");
        let (_, message) = mirror(&event("order_status_changed", "order:7", &seen, None), "b").unwrap();
        assert!(message.contains(r#""timestamp":"t","tracking_event":{"lat":33.50},"_src""#), "{message}");
    }

    #[test]
    fn only_what_everybody_may_see_is_published() {
        let public = DATA.replace("72.5", "70");
        let (_, message) = mirror(&event("ei_updated", "fleet:F", DATA, Some(&public)), "b").unwrap();
        assert!(message.contains("\"new_ei\":70,"), "{message}");
    }

    #[test]
    fn of_a_sealed_bid_nothing_is_published() {
        let full = r#"{"bid_id":"B","version":1,"total":1,"ranked_proposals":[{"rank":1}],"timestamp":"t"}"#;
        let (channel, message) =
            mirror(&event("proposal_ranking_updated", "ranking:B", full, None), "b").unwrap();
        let expected =
            r#"{"bid_id":"B","ranked_proposals":[{"rank":1}],"total":1,"timestamp":"t","_src":"b"}"#;
        assert_eq!((channel.as_str(), message.as_str()), ("channel:bid:B:proposal_ranking", expected));
        let sealed = r#"{"bid_id":"B","sealed":true}"#;
        assert_eq!(mirror(&event("proposal_ranking_updated", "ranking:B", full, Some(sealed)), "b"), None);
    }

    #[test]
    fn what_has_no_row_is_not_published() {
        assert_eq!(mirror(&event("reset", "fleet:F", DATA, None), "b"), None);
        assert_eq!(mirror(&event("ei_updated", "topic:F", DATA, None), "b"), None);
    }
}
