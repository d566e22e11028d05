//! Fleets and their carbon intensity: commands, state, history, and what listeners get.

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use serde_json::{Value, json};

use crate::support::client::with_seq;
use crate::support::{Answer, Api, Client, Server, ServerOptions};

const UPDATE: &str = "/v2/fleet/ei-update";
const BATCH: &str = "/v2/fleet/ei-update/batch";

/// Reports an intensity given as the text of a JSON number.
async fn report(api: &Api, fleet: &str, ei: &str) -> Answer {
    api.post_text(UPDATE, format!("{{\"fleet_id\":\"{fleet}\",\"new_ei\":{ei}}}")).await
}

async fn report_at(api: &Api, fleet: &str, ei: u64, measured_at: &str) -> Answer {
    let body = json!({"fleet_id": fleet, "new_ei": ei, "measured_at": measured_at});
    api.post(UPDATE, &body).await
}

fn fields(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().expect("errors");
    errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
}

async fn history(api: &Api, fleet: &str, query: &str) -> (Vec<i64>, Value) {
    let answer = api.get(&format!("/v2/fleets/{fleet}/history{query}")).await.expect(200);
    let readings = answer["readings"].as_array().expect("readings");
    let versions = readings.iter().map(|reading| reading["version"].as_i64().expect("a version"));
    (versions.collect(), answer["next"].clone())
}

#[tokio::test]
async fn a_first_reading_has_no_old_value_and_later_ones_do() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "fleet:FLT-1", None).await;
    let first = report(&api, "FLT-1", "72.5").await.expect(200);
    assert_eq!(
        first,
        json!({"fleet_id": "FLT-1", "old_ei": null, "new_ei": 72.5, "ei_grade": "B",
               "timestamp": first["timestamp"], "version": 1})
    );
    let second = report(&api, "FLT-1", "40").await.expect(200);
    assert_eq!(
        (&second["old_ei"], &second["new_ei"], &second["ei_grade"], &second["version"]),
        (&json!(72.5), &json!(40), &json!("A"), &json!(2))
    );
    for answer in [first, second] {
        let event = client.event().await;
        assert_eq!((event.name.as_str(), event.data), ("ei_updated", answer));
    }
}

#[tokio::test]
async fn a_grade_follows_from_the_bounds_unless_it_is_given() {
    let own = ServerOptions::default().set("fleets.grade_bounds", "1,2.5,3,4");
    let (server, customised) = (Server::start(), Server::with(own));
    let api = server.api();
    for (ei, grade) in [
        ("0", "A"),
        ("50", "A"),
        ("50.000001", "B"),
        ("80", "B"),
        ("110", "C"),
        ("150", "D"),
        ("150.000001", "E"),
    ] {
        assert_eq!(report(&api, "FLT-1", ei).await.expect(200)["ei_grade"], grade, "{ei}");
    }
    let given = json!({"fleet_id": "FLT-1", "new_ei": 1, "ei_grade": "E"});
    assert_eq!(api.post(UPDATE, &given).await.expect(200)["ei_grade"], "E");
    let unknown = json!({"fleet_id": "FLT-1", "new_ei": 1, "ei_grade": "F"});
    let answer = api.post(UPDATE, &unknown).await;
    assert_eq!(fields(&answer), ["ei_grade"]);
    answer.problem(422);
    let answer = report(&customised.api(), "FLT-1", "2.500001").await.expect(200);
    assert_eq!(answer["ei_grade"], "C");
}

#[tokio::test]
async fn a_reading_measured_earlier_is_stale_and_published_to_nobody() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "fleet:FLT-1", None).await;
    let noon = "2026-01-01T12:00:00Z";
    report_at(&api, "FLT-1", 1, noon).await.expect(200);
    for earlier in ["2026-01-01T11:59:59.999Z", "2026-01-01T12:59:59+01:00"] {
        let stale = report_at(&api, "FLT-1", 2, earlier).await;
        assert!(stale.json()["detail"].as_str().unwrap().contains("2026-01-01T12:00:00"));
        assert_eq!(stale.problem(409), "stale");
    }
    let same = report_at(&api, "FLT-1", 3, noon).await.expect(200);
    assert_eq!((&same["old_ei"], &same["version"]), (&json!(1), &json!(2)));
    let now = report(&api, "FLT-1", "4").await.expect(200);
    assert_eq!(now["version"], 3);
    assert_eq!(
        report_at(&api, "FLT-1", 5, noon).await.problem(409),
        "stale",
        "without a time it was measured now"
    );
    let mut values = Vec::new();
    for _ in 0..3 {
        values.push(client.event().await.data["new_ei"].clone());
    }
    assert_eq!(values, [1, 3, 4]);
    assert_eq!(history(&api, "FLT-1", "").await.0, [3, 2, 1]);
    let answer = report_at(&api, "FLT-1", 6, "yesterday").await;
    assert_eq!(fields(&answer), ["measured_at"]);
    answer.problem(422);
}

#[tokio::test]
async fn intensities_are_exact_decimals() {
    let server = Server::start();
    let api = server.api();
    for (sent, kept) in [
        ("999999999999.999999", "999999999999.999999"),
        ("0.000001", "0.000001"),
        ("0.1", "0.1"),
        ("72.50", "72.5"),
        ("7.25e1", "72.5"),
        ("725E-1", "72.5"),
        ("1e-6", "0.000001"),
        ("1e+11", "100000000000"),
        ("0e999", "0"),
        ("0", "0"),
    ] {
        let answer = report(&api, "FLT-1", sent).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains(&format!("\"new_ei\":{kept},")), "{sent}: {}", answer.text);
        let stored = api.get("/v2/fleets/FLT-1").await.text;
        assert!(stored.contains(&format!("\"ei\":{kept},")), "{sent}: {stored}");
    }
    // without the position: the last update may still be on its way into the log
    let state = async || {
        let mut fleet = api.get("/v2/fleets/FLT-1").await.expect(200);
        fleet.as_object_mut().unwrap().remove("position");
        fleet
    };
    let before = state().await;
    for refused in [
        "1000000000000",
        "0.0000001",
        "1.0000001",
        "1e12",
        "1e-7",
        "123456789012.1234567",
        "1e99999999999999999999",
        "-1",
        "-0.000001",
        "\"72.5\"",
        "null",
        "true",
        "[1]",
        "{}",
    ] {
        let answer = report(&api, "FLT-1", refused).await;
        assert_eq!(fields(&answer), ["new_ei"], "{refused}");
        answer.problem(422);
    }
    for malformed in ["NaN", "Infinity", "01", "1.", ".5", "+1", "0x10"] {
        report(&api, "FLT-1", malformed).await.problem(400);
    }
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn what_is_wrong_with_a_reading_is_named() {
    let server = Server::start();
    let api = server.api();
    for (body, field) in [
        (json!({"new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": "FLT-1"}), "new_ei"),
        (json!({"fleet_id": "", "new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": "a b", "new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": "a\r\nid: 9", "new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": "x".repeat(65), "new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": 7, "new_ei": 1}), "fleet_id"),
        (json!({"fleet_id": "FLT-1", "new_ei": 1, "colour": "red"}), "colour"),
    ] {
        let answer = api.post(UPDATE, &body).await;
        assert_eq!(fields(&answer), [field], "{body}");
        answer.problem(422);
    }
}

#[tokio::test]
async fn each_reading_of_a_batch_is_answered_by_itself() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "fleet:A,fleet:B", None).await;
    let reading = |fleet: &str, ei: f64| json!({"fleet_id": fleet, "new_ei": ei});
    let body = json!({"updates": [
        reading("A", 1.0),
        reading("B", 2.0),
        reading("A", -1.0),
        {"fleet_id": "A", "new_ei": 3, "measured_at": "2001-01-01T00:00:00Z"},
        {"fleet_id": "A", "new_ei": 3, "colour": "red"},
        reading("A", 4.5),
    ]});
    let answer = api.post(BATCH, &body).await.expect(200);
    let results = answer["results"].as_array().expect("results");
    let status: Vec<u64> =
        results.iter().map(|result| result["status"].as_u64().expect("a status")).collect();
    assert_eq!(status, [200, 200, 422, 409, 422, 200]);
    assert_eq!(results[2]["error"]["errors"][0]["field"], "new_ei");
    assert_eq!(results[3]["error"]["code"], "stale");
    assert_eq!(results[4]["error"]["code"], "unknown_field");
    assert_eq!((&results[5]["old_ei"], &results[5]["version"]), (&json!(1), &json!(2)), "in order");
    for index in [0, 1, 5] {
        let event = client.event().await;
        let mut expected = results[index].clone();
        expected.as_object_mut().unwrap().remove("status");
        assert_eq!(event.data, expected);
    }
    let many = |count: usize| {
        let updates: Vec<Value> = (0..count).map(|n| reading(&format!("FLT-{n}"), 1.0)).collect();
        json!({"updates": updates})
    };
    for count in [0, 1001] {
        let answer = api.post(BATCH, &many(count)).await;
        assert_eq!(fields(&answer), ["updates"]);
        answer.problem(422);
    }
    let answer = api.post(BATCH, &many(1000)).await.expect(200);
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 1000);
    assert!(results.iter().all(|result| result["status"] == 200));
}

#[tokio::test]
async fn fleets_are_listed_in_pages() {
    let server = Server::start();
    let api = server.api();
    let empty = api.get("/v2/fleets").await.expect(200);
    assert_eq!((&empty["fleets"], &empty["next"]), (&json!([]), &Value::Null));
    let updates: Vec<Value> =
        (0..120).rev().map(|n| json!({"fleet_id": format!("FLT-{n:03}"), "new_ei": n})).collect();
    api.post(BATCH, &json!({"updates": updates})).await.expect(200);
    let expected: Vec<String> = (0..120).map(|n| format!("FLT-{n:03}")).collect();
    for (query, sizes) in [
        ("", vec![50, 50, 20]),
        ("limit=40", vec![40, 40, 40]),
        ("limit=200", vec![120]),
        ("limit=119", vec![119, 1]),
    ] {
        let (mut seen, mut pages, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v2/fleets?{query}{after}")).await.expect(200);
            assert!(page["position"].is_string());
            let fleets = page["fleets"].as_array().expect("fleets");
            pages.push(fleets.len());
            seen.extend(fleets.iter().map(|fleet| fleet["fleet_id"].as_str().expect("an id").to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!((seen, pages), (expected.clone(), sizes), "{query}");
    }
    for limit in ["0", "201", "-1", "many"] {
        let answer = api.get(&format!("/v2/fleets?limit={limit}")).await;
        assert_eq!(fields(&answer), ["limit"]);
        answer.problem(400);
    }
}

#[tokio::test]
async fn a_fleet_is_found_with_its_state_and_position() {
    let server = Server::start();
    let api = server.api();
    report_at(&api, "FLT:KR.1", 72, "2026-01-01T12:00:00Z").await.expect(200);
    let found = api.get("/v2/fleets/FLT:KR.1").await.expect(200);
    assert_eq!(
        found,
        json!({"fleet_id": "FLT:KR.1", "ei": 72, "ei_grade": "B", "measured_at": "2026-01-01T12:00:00.000Z",
               "updated_at": found["updated_at"], "version": 1, "position": found["position"]})
    );
    for unknown in ["FLT-2", "a%20b", "%0d%0a"] {
        let answer = api.get(&format!("/v2/fleets/{unknown}")).await;
        assert_eq!(answer.problem(404), "no_such_fleet");
        let answer = api.get(&format!("/v2/fleets/{unknown}/history")).await;
        assert_eq!(answer.problem(404), "no_such_fleet");
    }
}

#[tokio::test]
async fn history_keeps_the_newest_readings_and_is_read_backwards() {
    let mut server = Server::with(ServerOptions::default().set("fleets.history", 10));
    let api = server.api();
    for n in 1..=25 {
        report(&api, "FLT-1", &n.to_string()).await.expect(200);
    }
    report(&api, "FLT-2", "7").await.expect(200);
    server.kill();
    server.restart(|options| options);
    let all: Vec<i64> = (16..=25).rev().collect();
    assert_eq!(history(&api, "FLT-1", "").await, (all.clone(), Value::Null));
    assert_eq!(history(&api, "FLT-2", "").await, (vec![1], Value::Null));
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let (versions, next) = history(&api, "FLT-1", &format!("?limit=4{before}")).await;
        seen.extend(versions);
        match next.as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(seen, all);
    let answer = api.get("/v2/fleets/FLT-1/history?limit=1").await.expect(200);
    let reading = &answer["readings"][0];
    assert_eq!(
        *reading,
        json!({"version": 25, "ei": 25, "ei_grade": "A", "measured_at": reading["measured_at"]})
    );
    for query in ["limit=0", "limit=201", "before=x"] {
        let answer = api.get(&format!("/v2/fleets/FLT-1/history?{query}")).await;
        answer.problem(400);
    }
}

#[tokio::test]
async fn a_repeated_command_gets_the_stored_answer() {
    let mut server = Server::start();
    let api = server.api();
    let body = json!({"fleet_id": "FLT-1", "new_ei": 7});
    let first = api.post_once(UPDATE, &body, "once").await.expect(200);
    assert_eq!(api.post_once(UPDATE, &body, "once").await.expect(200), first);
    let other = json!({"fleet_id": "FLT-1", "new_ei": 8});
    let reused = api.post_once(UPDATE, &other, "once").await;
    assert_eq!(reused.problem(422), "idempotency_key_reused");
    let late = json!({"fleet_id": "FLT-1", "new_ei": 9, "measured_at": "2001-01-01T00:00:00Z"});
    let stale = api.post_once(UPDATE, &late, "late").await;
    assert_eq!(stale.clone().problem(409), "stale");
    assert_eq!(api.post_once(UPDATE, &late, "late").await.json(), stale.json());
    let batch = json!({"updates": [body, {"fleet_id": "FLT-2", "new_ei": -1}]});
    let batched = api.post_once(BATCH, &batch, "batch").await.expect(200);
    assert_eq!(api.post_once(BATCH, &batch, "batch").await.expect(200), batched);
    server.kill();
    server.restart(|options| options);
    assert_eq!(api.post_once(UPDATE, &body, "once").await.expect(200), first, "also after a crash");
    assert_eq!(history(&api, "FLT-1", "").await.0, [2, 1], "carried out once each");
    let colleague = server.api_with(&server.create_key("publish"));
    let own = colleague.post_once(UPDATE, &body, "once").await.expect(200);
    assert_eq!(own["version"], 3, "another principal's key is another key");
}

#[tokio::test]
async fn a_command_whose_key_is_in_flight_is_a_conflict() {
    let server = Server::with(ServerOptions::default().set("storage.wait_ms", 20_000));
    let api = server.api();
    let path = server.data_dir().join("bongsu.db");
    let mut other = SqliteConnection::establish(&path.to_string_lossy()).expect("the database opens");
    other.batch_execute("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE").expect("locked");
    let body = json!({"fleet_id": "FLT-1", "new_ei": 7});
    let request = || Box::pin(api.post_once(UPDATE, &body, "once"));
    // while nothing can be written, one of them waits and the other one is turned away
    let (refused, waiting) = match futures_util::future::select(request(), request()).await {
        futures_util::future::Either::Left(first) => first,
        futures_util::future::Either::Right(first) => first,
    };
    assert_eq!(refused.problem(409), "idempotency_key_in_progress");
    other.batch_execute("COMMIT").expect("unlocked");
    assert_eq!(waiting.await.expect(200)["version"], 1);
}

#[tokio::test]
async fn a_snapshot_and_a_subscription_since_its_position_miss_nothing() {
    const LAST: i64 = 300;
    let server = Server::start();
    let api = server.api();
    report(&api, "FLT-1", "0").await.expect(200);
    let publisher = api.clone();
    let publishing = tokio::spawn(async move {
        for n in 2..=LAST {
            assert_eq!(report(&publisher, "FLT-1", &n.to_string()).await.expect(200)["version"], n);
        }
    });
    let mut rounds = 0;
    while !publishing.is_finished() || rounds == 0 {
        let path = ["/v2/fleets/FLT-1", "/v2/fleets", "/v2/fleets/FLT-1/history?limit=1"][rounds % 3];
        let snapshot = api.get(path).await.expect(200);
        let known =
            [&snapshot["version"], &snapshot["fleets"][0]["version"], &snapshot["readings"][0]["version"]]
                .into_iter()
                .find_map(Value::as_i64)
                .expect("a version");
        let since = snapshot["position"].as_str().expect("a position");
        let (mut client, ready) = Client::connect(&api, "fleet:FLT-1", Some(since)).await;
        assert_eq!(ready["recovered"], true);
        let mut newest = known;
        for _ in 0..5 {
            if newest == LAST {
                break;
            }
            let event = client.event().await;
            let version = event.data["version"].as_i64().expect("a version");
            // what the snapshot holds already may come again
            if version > newest {
                assert_eq!(version, newest + 1, "from {known} at {since}");
                newest = version;
            }
        }
        rounds += 1;
    }
    publishing.await.expect("published");
}

#[tokio::test]
async fn tenants_never_see_each_others_fleets() {
    let server = Server::start();
    let (api, other) = (server.api(), server.api_of("other", "publish,subscribe,manage"));
    let (mut mine, _) = Client::connect(&api, "fleet:FLT-1", None).await;
    let (mut theirs, ready) = Client::connect(&other, "fleet:FLT-1", None).await;
    assert_eq!(ready["tenant_id"], "other");
    for ei in ["1", "2", "3"] {
        report(&api, "FLT-1", ei).await.expect(200);
    }
    report(&api, "FLT-2", "4").await.expect(200);
    assert_eq!(other.get("/v2/fleets").await.expect(200)["fleets"], json!([]));
    for path in ["/v2/fleets/FLT-1", "/v2/fleets/FLT-1/history"] {
        assert_eq!(other.get(path).await.problem(404), "no_such_fleet");
    }
    let own = report(&other, "FLT-1", "9").await.expect(200);
    assert_eq!((&own["old_ei"], &own["version"]), (&Value::Null, &json!(1)));
    assert_eq!(theirs.event().await.data, own, "their first event is their own");
    for ei in [1, 2, 3] {
        assert_eq!(mine.event().await.data["new_ei"], ei);
    }
    let fleets = other.get("/v2/fleets").await.expect(200);
    assert_eq!(fleets["fleets"].as_array().map(Vec::len), Some(1));
    // positions of one tenant mean nothing to the other
    let position = api.get("/v2/fleets").await.expect(200)["position"].clone();
    let foreign = with_seq(position.as_str().expect("a position"), 0);
    let (_, ready) = Client::connect(&other, "fleet:FLT-1", Some(&foreign)).await;
    assert_eq!(ready["reason"], "epoch_changed");
}
