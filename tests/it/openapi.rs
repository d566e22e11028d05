//! The OpenAPI document against what is answered: every operation, asked rightly and wrongly.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Answer, Api, Recipe, Server, ServerOptions, operations};

const NAMES: &[(&str, &str)] = &[
    ("fleet", "FLT-1"),
    ("topic", "topic:a"),
    ("named", "crew"),
    ("user", "me"),
    ("kicked", "you"),
    ("key", "none"),
    ("ticket", "none"),
    ("account", "1"),
    ("job", "none"),
    ("position", "0123456789abcdef-1"),
];
/// What an operation is documented to be answered with: statuses, and their media types.
type Documented = BTreeMap<u16, Vec<String>>;

/// That, of every operation, and whether it is for everybody.
async fn documented(api: &Api) -> BTreeMap<String, (Documented, bool)> {
    let document = api.get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let media_types = |response: &Value| {
        let content = response["content"].as_object();
        content.map(|content| content.keys().cloned().collect()).unwrap_or_default()
    };
    let described = |operation: &String| {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        let described = &document["paths"][path][method.to_lowercase()];
        let responses = described["responses"].as_object().expect("responses").iter();
        let responses = responses.map(|(status, own)| (status.parse().expect("a status"), media_types(own)));
        (responses.collect(), described["security"] == json!([{}]))
    };
    operations(api).await.into_iter().map(|operation| (operation.clone(), described(&operation))).collect()
}

#[tokio::test]
async fn whatever_an_operation_is_asked_its_answer_is_documented() {
    let server = Server::with(ServerOptions::default().unlimited().set("server.max_body_bytes", 16 * 1024));
    let callers = [
        server.api_of("default", "publish,subscribe,manage,admin,act_as_user"),
        server.operator(),
        server.api().anonymous(),
    ];
    let documented = documented(&callers[0]).await;
    let missing = RefCell::new(BTreeSet::new());
    let last = ["POST /v2/admin/drain"];
    let (drains, others): (Vec<_>, Vec<_>) =
        documented.iter().partition(|own| last.contains(&own.0.as_str()));
    for (operation, (statuses, is_open)) in others.into_iter().chain(drains) {
        let recipe = Recipe::of(operation);
        let is_known = |what: &str, answer: &Answer| {
            let told = format!("{operation} {what}: {} {}", answer.status, answer.text);
            let media_type = answer.headers.get("content-type").map(|own| own.to_str().expect("text"));
            let media_type = media_type.map(|own| own.split(';').next().unwrap_or_default().to_owned());
            if statuses.get(&answer.status).is_none_or(|own| *own != Vec::from_iter(media_type.clone())) {
                missing.borrow_mut().insert(format!("{operation}: {} {media_type:?}", answer.status));
            }
            if media_type.as_deref() == Some("application/problem+json") {
                let body: Value = answer.json();
                for field in ["type", "title", "code", "detail"] {
                    assert!(body[field].is_string(), "{told}");
                }
                assert_eq!(body["status"], answer.status, "{told}");
                assert!(body["errors"].is_array() && answer.status >= 400, "{told}");
            }
        };
        for api in &callers {
            is_known("as it should be", &recipe.send(api, NAMES).await);
        }
        let answer = recipe.send(&callers[2], NAMES).await;
        assert_eq!(answer.status, if *is_open { recipe.granted } else { 401 }, "{operation}");
        let (method, path) = recipe.target(NAMES);
        let bare = path.split('?').next().expect("a path");
        let another = format!("{bare}?topics=%ff&limit=x&after=%ff&fleet_ids=&bid_ids=&bid_id=&order_ids=");
        for api in &callers[..2] {
            is_known(
                "with another query",
                &Api::send(api.request(method, &another)).await.expect("an answer"),
            );
        }
        if recipe.body.is_empty() {
            continue;
        }
        let wrong: [(&str, &str, String); 5] = [
            ("no JSON", "application/json", "{".to_owned()),
            ("an unknown field", "application/json", "{\"colour\":\"red\"}".to_owned()),
            ("no text of a type", "text/plain", "{}".to_owned()),
            ("too deep", "application/json", "[".repeat(200) + &"]".repeat(200)),
            ("too large", "application/json", format!("\"{}\"", "x".repeat(20 * 1024))),
        ];
        for (what, media_type, body) in &wrong {
            for api in &callers[..2] {
                let request =
                    api.request(method, &path).header("content-type", *media_type).body(body.clone());
                let answer = Api::send(request).await.expect("an answer");
                is_known(what, &answer);
            }
        }
    }
    assert!(missing.borrow().is_empty(), "not documented: {:#?}", missing.borrow());
}

#[tokio::test]
async fn a_path_asked_by_another_method_names_its_methods_and_an_unknown_one_is_unknown() {
    let server = Server::start();
    let api = server.api();
    let refused = async |method: &str, path: &str, status: u16, code: &str| {
        let response = api.request(method, path).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        let allow = response.headers().get("allow").map(|own| own.to_str().expect("text").to_owned());
        let body: Value = response.json().await.expect("a problem");
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{method} {path}");
        allow
    };
    let (wrong, unknown) = ("method_not_allowed", "no_such_route");
    assert_eq!(refused("PUT", "/v2/events", 405, wrong).await.as_deref(), Some("POST"));
    assert_eq!(refused("POST", "/v2/fleets/FLT-1", 405, wrong).await.as_deref(), Some("GET"));
    let allow = refused("PATCH", "/v2/topics/crew/members", 405, wrong).await;
    assert_eq!(allow.as_deref(), Some("POST, DELETE"));
    assert_eq!(refused("POST", "/health", 405, wrong).await.as_deref(), Some("GET, HEAD"));
    assert_eq!(refused("GET", "/v2/events/none", 404, unknown).await, None);
    assert_eq!(refused("GET", "/", 404, unknown).await, None);
}

#[tokio::test]
async fn health_and_readiness_answer_a_head_request_without_a_body() {
    let server = Server::start();
    for path in ["/health", "/ready"] {
        let answer = server.api().anonymous().request("HEAD", path).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.text().await.expect("text"), "");
    }
}

#[tokio::test]
async fn a_plain_request_for_the_websocket_is_told_to_upgrade() {
    let server = Server::start();
    let answer =
        server.api().request("GET", "/v2/realtime/ws?topics=topic:a").send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["upgrade"]),
        (426, &"websocket".parse().unwrap())
    );
    assert_eq!(answer.json::<Value>().await.expect("a problem")["code"], "upgrade_required");
}
