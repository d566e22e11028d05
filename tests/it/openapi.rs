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
        assert_eq!(answer.status, if *is_open { 200 } else { 401 }, "{operation}");
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
