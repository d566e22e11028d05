use super::interop::{Interop, Unfit};
use crate::domain::{Class, Topic};
use crate::log::NewEvent;

fn interop() -> Interop {
    let channels = [("system-events".to_owned(), Topic::parse("topic:system").unwrap())];
    Interop { channels: channels.into(), source: "bongsu:".into(), message_bytes: 4096, depth: 8 }
}

/// Topic, name and data of each event, or the reason against it.
fn read(channel: &str, message: &str) -> Vec<Result<(String, String, String), Unfit>> {
    let shown = |event: NewEvent| {
        assert_eq!((event.version, event.ttl), (None, None), "{event:?}");
        (event.topic.as_str().to_owned(), event.name.as_str().to_owned(), event.data.to_string())
    };
    interop().read(channel, message.as_bytes()).into_iter().map(|read| read.map(shown)).collect()
}

fn one(channel: &str, message: &str) -> (String, String, String) {
    let mut events = read(channel, message);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0).unwrap()
}

const EI: &str = "channel:ei:updates";

#[test]
fn an_intensity_keeps_its_digits_and_loses_what_nobody_knows() {
    let message = r#" { "fleet_id": "FLT-A01", "old_ei": null, "new_ei": 999999999999.999999, "ei_grade": "B",
        "timestamp": "2024-05-01T10:00:00+09:00", "publishedAt": 1, "jobId": {"a": []} } "#;
    let data = r#"{"fleet_id":"FLT-A01","old_ei":null,"new_ei":999999999999.999999,"ei_grade":"B","timestamp":"2024-05-01T01:00:00.000Z","version":null}"#;
    let expected = ("fleet:FLT-A01".into(), "ei_updated".into(), data.into());
    assert_eq!(one(EI, message), expected);
    let event = interop().read(EI, message.as_bytes()).remove(0).unwrap();
    assert_eq!((event.class, event.key.as_deref()), (Class::Latest, Some("FLT-A01")));
}

#[test]
fn a_status_is_delivered_with_the_names_that_clients_know() {
    let message = r#"{"bid_id":"B1","old_status":"open","new_status":"a\"b","publishedAt":1714525200000}"#;
    let data = r#"{"bid_id":"B1","old_status":"open","new_status":"a\"b","updated_at":"2024-05-01T01:00:00.000Z","version":null}"#;
    assert_eq!(
        one("channel:bid:status", message),
        ("bid:B1".into(), "bid_status_changed".into(), data.into())
    );
    let message = r#"{"order_id":7,"new_status":"assigned","timestamp":"2024-05-01T01:00:00Z","tracking_event":{"lat":33.50}}"#;
    let data = r#"{"order_id":"7","old_status":null,"new_status":"assigned","updated_at":"2024-05-01T01:00:00.000Z","version":null,"tracking_event":{"lat":33.50}}"#;
    assert_eq!(
        one("channel:order:status", message),
        ("order:7".into(), "order_status_changed".into(), data.into())
    );
}

#[test]
fn copies_of_a_ranking_on_both_channels_have_one_name() {
    let message =
        r#"{"ranked_proposals":[{"proposal_id":"p","score":0.10}],"timestamp":"2024-05-01T01:00:00Z"}"#;
    let data = r#"{"bid_id":"B1","version":null,"total":1,"from_version":null,"ranked_proposals":[{"proposal_id":"p","score":0.10}],"moves":null,"timestamp":"2024-05-01T01:00:00.000Z"}"#;
    let expected = ("ranking:B1".into(), "proposal_ranking_updated".into(), data.into());
    assert_eq!(one("channel:bid:B1:proposal_ranking", message), expected);
    let named = message.replacen('{', r#"{"bid_id":"B1","#, 1);
    assert_eq!(one("channel:proposal:ranking", &named), expected);
    let dedup = |channel: &str, message: &str| {
        interop().read(channel, message.as_bytes()).remove(0).unwrap().dedup.unwrap().key
    };
    let own = dedup("channel:bid:B1:proposal_ranking", message);
    assert_eq!(own, dedup("channel:proposal:ranking", &named));
    assert_ne!(own, dedup("channel:proposal:ranking", &named.replace(":00Z", ":00.001Z")));
    let contradiction = read("channel:bid:B2:proposal_ranking", &named);
    assert_eq!(contradiction, [Err(Unfit::InvalidField)]);
}

#[test]
fn an_event_of_a_user_goes_by_its_own_name_and_brings_its_data_as_it_is() {
    let message =
        r#"{"userId":"김 kim","eventType":"snapshots.generated","data":{"snapshotCount": 2,"serverId":"s"}}"#;
    let (topic, name, data) = one("user-events", message);
    assert_eq!((topic.as_str(), name.as_str()), ("user:%EA%B9%80%20kim", "snapshots.generated"));
    assert_eq!(data, r#"{"snapshotCount":2,"serverId":"s"}"#);
    let (topic, _, data) = one("user-events", r#"{"userId":123,"eventType":"a"}"#);
    assert_eq!((topic.as_str(), data.as_str()), ("user:123", "{}"));
}

#[test]
fn a_batch_is_unpacked_in_order_and_each_element_stands_for_itself() {
    let at = r#""timestamp":"2024-05-01T01:00:00Z""#;
    let message = format!(
        r#"{{"type":"batch","events":[{{"fleet_id":"F","new_ei":1,{at}}},{{"bid_id":"B","ranked_proposals":[],{at}}},
        {{"bid_id":"B","new_status":"open",{at}}},{{"order_id":"O","new_status":"x",{at}}},
        {{"userId":"u","eventType":"t","data":{{}}}},{{"eventType":"first","type":"second","n":1.50}},
        {{"type":"second"}},{{"n":1}},5,{{"type":"ready"}},{{"fleet_id":"F","new_ei":-1,{at}}},
        {{"a":1,"_src":"bongsu:"}}],"timestamp":1}}"#
    );
    let events = read("channel:events", &message);
    let names = |event: &Result<(String, String, String), Unfit>| match event {
        Ok((topic, name, _)) => format!("{topic} {name}"),
        Err(unfit) => unfit.as_str().to_owned(),
    };
    let names: Vec<String> = events.iter().map(names).collect();
    let expected = [
        "fleet:F ei_updated",
        "ranking:B proposal_ranking_updated",
        "bid:B bid_status_changed",
        "order:O order_status_changed",
        "user:u t",
        "topic:events first",
        "topic:events second",
        "topic:events event",
        "topic:events event",
        "reserved_name",
        "invalid_number",
        "own",
    ];
    assert_eq!(names, expected);
    assert_eq!(events[5].as_ref().unwrap().2, r#"{"eventType":"first","type":"second","n":1.50}"#);
    assert_eq!(one("channel:events", r#"{"n":1}"#).1, "event");
    let many = format!(r#"{{"type":"batch","events":[{}0]}}"#, "0,".repeat(1000));
    assert_eq!(read("channel:events", &many), [Err(Unfit::TooManyEvents)]);
}

#[test]
fn a_channel_of_the_installation_leads_to_its_topic() {
    let (topic, name, data) = one("system-events", r#"{"type":"up", "_src":"another:"}"#);
    assert_eq!((topic.as_str(), name.as_str()), ("topic:system", "up"));
    assert_eq!(data, r#"{"type":"up","_src":"another:"}"#);
    assert_eq!(read("system-events", r#"{"_src":"bongsu:"}"#), [Err(Unfit::Own)]);
    assert_eq!(read("system-events", r#"{"type":"batch","events":[]}"#), [Err(Unfit::ReservedName)]);
}

#[test]
fn what_is_wrong_has_a_name() {
    use Unfit::*;
    let at = r#""timestamp":"2024-05-01T01:00:00Z""#;
    let ei = |rest: &str| format!(r#"{{"fleet_id":"F",{at},{rest}}}"#);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(8), "]".repeat(8));
    for (channel, message, unfit) in [
        (EI, " ".repeat(4097), TooLarge),
        (EI, deep, TooDeep),
        (EI, "".into(), NotJson),
        (EI, "{".into(), NotJson),
        (EI, "{} {}".into(), NotJson),
        (EI, "{\"a\":01}".into(), NotJson),
        (EI, "{\"\\ud800\":1}".into(), NotJson),
        (EI, "[]".into(), NotAnObject),
        (EI, "null".into(), NotAnObject),
        ("channel:bid:status", "\"x\"".into(), NotAnObject),
        ("user-events", "5".into(), NotAnObject),
        (EI, ei(r#""old_ei":1"#), MissingField),
        (EI, r#"{"fleet_id":"F","new_ei":1}"#.into(), MissingField),
        (EI, ei(r#""new_ei":"1""#), InvalidNumber),
        (EI, ei(r#""new_ei":1e12"#), InvalidNumber),
        (EI, ei(r#""new_ei":0.0000001"#), InvalidNumber),
        (EI, ei(r#""new_ei":1,"old_ei":-1"#), InvalidNumber),
        (EI, ei(r#""new_ei":1,"ei_grade":1"#), InvalidField),
        (EI, ei(r#""new_ei":1,"fleet_id":"a b""#), InvalidId),
        (EI, ei(r#""new_ei":1,"fleet_id":1.5"#), InvalidId),
        (EI, ei(r#""new_ei":1,"timestamp":"yesterday""#), InvalidTime),
        (EI, ei(r#""new_ei":1,"timestamp":253402300800000"#), InvalidTime),
        (EI, ei(r#""new_ei":1,"timestamp":-1"#), InvalidTime),
        (EI, ei(r#""new_ei":1,"_src":"bongsu:""#), Own),
        ("channel:bid:status", format!(r#"{{"bid_id":"B","new_status":"",{at}}}"#), InvalidField),
        (
            "channel:order:status",
            format!(r#"{{"order_id":"O","new_status":"x","tracking_event":1,{at}}}"#),
            InvalidField,
        ),
        ("channel:bid:B:proposal_ranking", format!(r#"{{"ranked_proposals":[1],{at}}}"#), InvalidField),
        ("channel:bid:a b:proposal_ranking", format!(r#"{{"ranked_proposals":[],{at}}}"#), InvalidId),
        ("channel:proposal:ranking", format!(r#"{{"ranked_proposals":[],{at}}}"#), MissingField),
        ("user-events", r#"{"userId":"","eventType":"a"}"#.into(), InvalidId),
        ("user-events", r#"{"userId":"u","eventType":"a b"}"#.into(), InvalidName),
        ("user-events", r#"{"userId":"u","eventType":5}"#.into(), InvalidName),
        ("user-events", r#"{"userId":"u","eventType":"entity.created"}"#.into(), ReservedName),
        ("user-events", r#"{"userId":"u","eventType":"a","data":[]}"#.into(), InvalidField),
        ("channel:events", r#"{"type":"batch","events":5}"#.into(), InvalidField),
        ("channel:events", r#"{"type":"batch"}"#.into(), ReservedName),
        ("channel:other", "{}".into(), InvalidField),
    ] {
        assert_eq!(read(channel, &message), [Err(unfit)], "{channel} {message}");
    }
    assert_eq!(interop().read(EI, b"{\"fleet_id\":\"\xff\"}")[0].as_ref().err(), Some(&NotJson));
    assert!(Unfit::ALL.contains(&TooLarge.as_str()));
}

proptest::proptest! {
    #[test]
    fn what_enters_the_log_is_one_line_of_json(
        channel in 0..7_usize,
        id in "[a-z\"\\\\\\n ]{0,4}",
        word in ".{0,6}",
        number in "-?[0-9.e]{0,6}",
    ) {
        let (id, word) = (serde_json::to_string(&id).unwrap(), serde_json::to_string(&word).unwrap());
        let message = format!(
            "{{\"fleet_id\":{id},\"bid_id\":{id},\"order_id\":{id},\"userId\":{word},\"new_ei\":{number},\"ei_grade\":{word},\
             \"new_status\":{word},\"eventType\":{id},\"timestamp\":\"2024-05-01T01:00:00Z\",\"ranked_proposals\":[]}}"
        );
        let channels = [super::interop::CHANNELS.as_slice(), &["system-events"]].concat();
        for event in interop().read(channels[channel], message.as_bytes()).into_iter().flatten() {
            let is_json = serde_json::from_str::<serde_json::Value>(&event.data).is_ok();
            proptest::prop_assert!(is_json && !event.data.contains(['\r', '\n']), "{event:?}");
        }
    }
}
