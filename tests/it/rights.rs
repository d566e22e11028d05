//! The tables of rights, row by row, for every kind of principal and over every way in.

mod table;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use table::{COMMANDS, LISTENING, NOT_YET, Row, STREAMS, TOPICS};

use crate::support::{Api, Issuer, OPEN, Recipe, Server, ServerOptions, Ws, from_now, operations};

const SECRET: &str = "a secret of at least thirty-two bytes";
const ALL: &str = "publish,subscribe,manage,admin,act_as_user";
const TENANTS: [&str; 2] = ["default", "other"];

/// What is known of a principal.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Nothing; the code that it is told.
    Unknown(&'static str),
    /// It runs the nodes, and belongs to no tenant.
    Operator,
    /// It has these scopes.
    Service(&'static str),
    /// It is this user with these roles.
    User(&'static str, &'static [&'static str]),
}

struct Principal {
    name: String,
    kind: Kind,
    api: Api,
    tenant: &'static str,
}

impl Principal {
    /// Whether a row of the table is for it.
    fn may(&self, services: &str, users: &str) -> bool {
        let named = |list: &str, word: &str| list.split(' ').any(|own| own == word);
        match self.kind {
            Kind::Unknown(_) => false,
            Kind::Operator => named(services, "operator"),
            Kind::Service(scopes) => scopes.split(',').any(|scope| named(services, scope)),
            Kind::User(sub, roles) => {
                let is_member = sub == "me" && users == "members";
                let is_named =
                    roles.iter().any(|role| named(users, role)) || named(users, &format!("@{sub}"));
                users == "everybody" || is_member || is_named
            }
        }
    }

    /// What it is told of a topic that is not for it.
    fn topic_code(&self, users: &str) -> &'static str {
        match self.kind {
            Kind::User(..) if users == "members" => "not_a_member",
            _ => "forbidden",
        }
    }
}

fn server() -> Server {
    Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).unlimited())
}

/// Every kind of principal; the operator comes last.
fn everybody(server: &Server) -> Vec<Principal> {
    let mut all = Vec::new();
    let mut add =
        |name: String, kind: Kind, api: Api, tenant| all.push(Principal { name, kind, api, tenant });
    let anonymous = server.api().anonymous();
    add("nobody".into(), Kind::Unknown("missing_credentials"), anonymous.clone(), "default");
    add("a wrong key".into(), Kind::Unknown("invalid_credentials"), server.api_with("bk_wrong"), "default");
    let forged = Issuer::shared("another secret of thirty-two bytes!", None).token("me", &["admin"]);
    add("a forged token".into(), Kind::Unknown("invalid_signature"), anonymous.bearing(&forged), "default");
    for scopes in ["publish", "subscribe", "manage", "admin", "act_as_user", ALL] {
        add(format!("key {scopes}"), Kind::Service(scopes), server.api_of("default", scopes), "default");
    }
    add("another tenant's key".into(), Kind::Service(ALL), server.api_of("other", ALL), "other");
    let bound = server.new_key(&["--scopes", ALL, "--sub", "me"]).1;
    add("a key bound to a user".into(), Kind::User("me", &[]), bound, "default");
    let service = server.api_of("default", "act_as_user");
    add("a service for a user".into(), Kind::User("me", &[]), service.speaking_for("me"), "default");
    add("a service for another".into(), Kind::User("you", &[]), service.speaking_for("you"), "default");
    let mighty = server.api_of("default", ALL).speaking_for("me");
    add("a mighty service for a user".into(), Kind::User("me", &[]), mighty, "default");
    let users: [(&str, &[&str], &str); 10] = [
        ("me", &[], "default"),
        ("me", &["dispatcher"], "default"),
        ("me", &["manager"], "default"),
        ("me", &["admin"], "default"),
        ("me", &["shipper"], "default"),
        ("me", &["carrier"], "default"),
        ("me", &["Admin", "operator", "publish", "manage"], "default"),
        ("you", &[], "default"),
        ("you", &["dispatcher", "manager", "admin", "shipper", "carrier"], "default"),
        ("me", &["admin"], "other"),
    ];
    for (sub, roles, tenant) in users {
        let claims = json!({"sub": sub, "roles": roles, "tenant": tenant, "exp": from_now(600)});
        let api = anonymous.bearing(&Issuer::shared(SECRET, None).sign(&claims));
        add(format!("token of {sub} {roles:?} {tenant}"), Kind::User(sub, roles), api, tenant);
    }
    add("key operator".into(), Kind::Operator, server.operator(), "default");
    all
}

/// The same entities in both tenants; the position of each tenant's first event.
async fn furnished(server: &Server) -> Vec<String> {
    let mut positions = Vec::new();
    for tenant in TENANTS {
        let api = server.api_of(tenant, "publish,manage");
        positions.push(api.publish("topic:open", "note", json!(0)).await);
        api.update_ei("FLT-1", 1.0).await;
        for (order, shipper) in [("FLT-1", "nobody"), ("ORD-ME", "me")] {
            let order = json!({"order_id": order, "shipper": shipper, "carrier": shipper});
            api.post("/v2/orders", &order).await.expect(201);
        }
        let bid = json!({"bid_id": "FLT-1", "title": "t", "origin": 1, "destination": 2, "cargo": 3, "visibility": "open",
                "criteria": [{"field": "price", "weight": 1, "direction": "asc", "reference": 1}]});
        api.post("/v2/bids", &bid).await.expect(201);
        api.post("/v2/bids/FLT-1/cancel", &json!({})).await.expect(200);
        api.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(201);
        api.call("POST", "/v2/topics/crew/members", &json!({"users": ["me"]})).await.expect(200);
        let service = server.api_of(tenant, "act_as_user");
        for (user, id) in [("me", 1), ("you", 2)] {
            let account = json!({"name": user, "balance": 0});
            let made = service.speaking_for(user).post("/accounts", &account).await.expect(201);
            assert_eq!(made["id"], id);
        }
    }
    positions
}

fn names<'a>(
    principal: &Principal,
    positions: &'a [String],
    topic: &'a str,
) -> [(&'static str, &'a str); 10] {
    let position = &positions[TENANTS.iter().position(|own| *own == principal.tenant).expect("a tenant")];
    let ids = [
        ("fleet", "FLT-1"),
        ("named", "crew"),
        ("user", "me"),
        ("key", "none"),
        ("ticket", "none"),
        ("kicked", "nobody"),
        ("job", "none"),
    ];
    let [fleet, named, user, key, ticket, kicked, job] = ids;
    let account = ("account", if matches!(principal.kind, Kind::User("you", _)) { "2" } else { "1" });
    [fleet, named, user, key, ticket, kicked, job, account, ("topic", topic), ("position", position)]
}

/// Status and code of an answer, or of its first item.
fn verdict(status: u16, body: &Value) -> (u16, String) {
    let item = &body["results"][0];
    let (status, error) = match item["status"].as_u64() {
        Some(status) => (status as u16, &item["error"]),
        None => (status, body),
    };
    (status, error["code"].as_str().unwrap_or_default().to_owned())
}

fn over_http(row: &Row) -> impl Iterator<Item = &'static Recipe> {
    row.operations.iter().filter(|own| !own.starts_with("WS ")).map(|own| Recipe::of(own))
}

#[tokio::test]
async fn every_command_over_http_is_for_those_whom_the_table_names() {
    let server = server();
    let positions = furnished(&server).await;
    let principals = everybody(&server);
    for row in COMMANDS {
        for (recipe, topic) in over_http(row).flat_map(|own| row.topics.iter().map(move |topic| (own, topic)))
        {
            for principal in &principals {
                let answer = recipe.send(&principal.api, &names(principal, &positions, topic)).await;
                let body = serde_json::from_str(&answer.text).unwrap_or_default();
                let (status, code) = verdict(answer.status, &body);
                let told = format!(
                    "{} ({}) on {topic} by {}: {status} {code}",
                    row.what, recipe.operation, principal.name
                );
                match principal.kind {
                    Kind::Unknown(expected) => {
                        assert_eq!((status, code.as_str()), (401, expected), "{told}");
                        assert!(answer.headers.contains_key("www-authenticate"), "{told}");
                    }
                    _ if principal.may(row.services, row.users) => {
                        assert_eq!(status, recipe.granted, "{told}")
                    }
                    Kind::Operator if code == "no_tenant" => assert_eq!(status, 403, "{told}"),
                    _ => assert_eq!((status, code.as_str()), (403, "forbidden"), "{told}"),
                }
            }
        }
    }
}

/// How a WebSocket is told who is there.
#[derive(Clone, Copy, Debug)]
enum Way {
    Handshake,
    FirstMessage,
    Ticket,
    TicketInMessage,
}

const WAYS: [Way; 4] = [Way::Handshake, Way::FirstMessage, Way::Ticket, Way::TicketInMessage];

async fn ticket(api: &Api) -> Option<String> {
    let answer = api.post("/v2/realtime/tickets", &json!({})).await;
    (answer.status == 201).then(|| answer.json()["ticket"].as_str().expect("a ticket").to_owned())
}

/// A connection with topics from its start; None when the principal cannot come this way.
async fn connect(principal: &Principal, way: Way, topics: &[&str]) -> Option<Result<Ws, u16>> {
    let (address, asked) = (principal.api.address(), topics.join(","));
    let credentials = principal.api.credentials();
    let headers: Vec<(&str, &str)> =
        credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let query = if topics.is_empty() { String::new() } else { format!("&topics={asked}") };
    match way {
        Way::Handshake => Some(Ws::try_open(address, &format!("/v2/realtime/ws?{query}"), &headers).await),
        Way::Ticket => {
            let ticket = ticket(&principal.api).await?;
            let path = format!("/v2/realtime/ws?ticket={ticket}{query}");
            Some(Ws::try_open(address, &path, &[]).await)
        }
        Way::FirstMessage | Way::TicketInMessage => {
            let secret = match (way, &headers[..]) {
                (Way::TicketInMessage, _) => ticket(&principal.api).await?,
                (_, [(_, secret)]) => secret.strip_prefix("Bearer ").unwrap_or(secret).to_owned(),
                // a user that a service speaks for is named by a header, which a message has not
                _ => return None,
            };
            let mut ws = Ws::try_open(address, "/v2/realtime/ws", &[]).await.expect("strangers may knock");
            let reply = ws.ask("auth", json!({"token": secret, "topics": topics})).await;
            match reply["ok"].as_bool().expect("a reply") {
                true => Some(Ok(ws)),
                false if ws.closed().await.code == 3500 => Some(Err(401)),
                false => Some(Err(403)),
            }
        }
    }
}

#[tokio::test]
async fn every_command_over_websocket_is_for_those_whom_the_table_names() {
    let server = server();
    let positions = furnished(&server).await;
    for principal in &everybody(&server) {
        for way in WAYS {
            let Some(ws) = connect(principal, way, &[]).await else { continue };
            let mut ws = match (principal.kind, ws) {
                (Kind::Unknown("missing_credentials"), Ok(mut stranger)) => {
                    assert_eq!(stranger.refused("ping", json!({})).await, "unauthenticated");
                    assert_eq!(stranger.closed().await.code, 3500);
                    continue;
                }
                (Kind::Unknown(_), Err(401)) | (Kind::Operator, Err(403)) => continue,
                (_, ws) => ws.unwrap_or_else(|status| panic!("{} by {way:?}: {status}", principal.name)),
            };
            ws.ready().await;
            for row in COMMANDS {
                for operation in row.operations.iter().filter_map(|own| own.strip_prefix("WS ")) {
                    let recipe = Recipe::of(&format!("WS {operation}"));
                    for topic in row.topics {
                        let body = recipe.body(&names(principal, &positions, topic));
                        let reply = match operation.split_once(' ') {
                            Some((_, name)) => ws.ask("command", json!({"name": name, "data": body})).await,
                            None => ws.ask(operation, body).await,
                        };
                        let told = format!("{} on {topic} by {} {way:?}: {reply}", row.what, principal.name);
                        let allowed = principal.may(row.services, row.users);
                        // what is allowed may still not be in order
                        let is_done = recipe.granted < 300;
                        assert_eq!(reply["ok"], allowed && is_done, "{told}");
                        let is_forbidden = reply["error"]["code"] == "forbidden";
                        assert_eq!(is_forbidden, !allowed, "{told}");
                    }
                }
            }
        }
    }
}

/// The rows of the table that are for a principal, and those that are not with the code it is told.
fn sorted(principal: &Principal) -> (Vec<&'static str>, Vec<(&'static str, &'static str)>) {
    let (granted, refused): (Vec<_>, Vec<_>) =
        TOPICS.iter().copied().partition(|(_, services, users)| principal.may(services, users));
    let told = refused.into_iter().map(|(topic, _, users)| (topic, principal.topic_code(users)));
    (granted.into_iter().map(|(topic, ..)| topic).collect(), told.collect())
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|own| own.as_str().expect("a text")).collect()
}

#[tokio::test]
async fn every_topic_over_http_is_for_those_whom_the_table_names() {
    let server = server();
    furnished(&server).await;
    let all: Vec<&str> = TOPICS.iter().map(|(topic, ..)| *topic).collect();
    for principal in &everybody(&server) {
        let (granted, refused) = sorted(principal);
        for (operation, by_ticket) in LISTENING.iter().flat_map(|own| [(*own, false), (*own, true)]) {
            let ticket = if by_ticket { ticket(&principal.api).await } else { Some(String::new()) };
            let Some(ticket) = ticket else { continue };
            let api = if by_ticket { principal.api.anonymous() } else { principal.api.clone() };
            let suffix = if by_ticket { format!("&ticket={ticket}") } else { String::new() };
            let ask = async |topics: &[&str]| {
                let topics = topics.join(",") + &suffix;
                Recipe::of(operation).send(&api, &[("topic", &topics)]).await
            };
            let told = format!("{operation} by {}, ticket: {by_ticket}", principal.name);
            let answer = ask(&all).await;
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            let (status, code) = verdict(answer.status, &body);
            match principal.kind {
                Kind::Unknown(expected) => {
                    assert_eq!((status, code.as_str()), (401, expected), "{told}");
                    continue;
                }
                Kind::Operator => {
                    assert_eq!((status, code.as_str()), (403, "no_tenant"), "{told}");
                    continue;
                }
                _ if refused.is_empty() => assert_eq!(status, 200, "{told}"),
                _ => assert_eq!((status, code.as_str()), (403, "forbidden_topics"), "{told}"),
            }
            let errors = body["errors"].as_array().map_or(&[][..], Vec::as_slice).iter();
            let named: Vec<&str> = errors.map(|error| error["message"].as_str().expect("a topic")).collect();
            assert_eq!(named, refused.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), "{told}");
            if !granted.is_empty() {
                assert_eq!(ask(&granted).await.status, 200, "{told}: {granted:?}");
            }
        }
        for (operation, topic) in STREAMS {
            let kind = topic.split(':').next().expect("a kind");
            let row = TOPICS.iter().find(|(own, ..)| own.starts_with(&format!("{kind}:")));
            let (_, services, users) = row.expect("the kind's row");
            let status = Recipe::of(operation).send(&principal.api, &[("fleet", "FLT-1")]).await.status;
            let expected = match principal.kind {
                Kind::Unknown(_) => 401,
                _ if principal.may(services, users) => 200,
                _ => 403,
            };
            assert_eq!(status, expected, "{operation} by {}", principal.name);
        }
    }
}

#[tokio::test]
async fn every_topic_over_websocket_is_for_those_whom_the_table_names() {
    let server = server();
    furnished(&server).await;
    let all: Vec<&str> = TOPICS.iter().map(|(topic, ..)| *topic).collect();
    for principal in &everybody(&server) {
        if matches!(principal.kind, Kind::Unknown(_) | Kind::Operator) {
            continue;
        }
        let (granted, refused) = sorted(principal);
        let as_told: Vec<Value> =
            refused.iter().map(|(topic, code)| json!({"topic": topic, "code": code})).collect();
        for way in WAYS {
            let told = format!("{} by {way:?}", principal.name);
            let Some(ws) = connect(principal, way, &all).await else { continue };
            let mut ws = ws.unwrap_or_else(|status| panic!("{told}: {status}"));
            assert_eq!(texts(&ws.ready().await["topics"]), granted, "{told}");
            for expected in &as_told {
                let frame = ws.next().await.expect("a frame");
                assert_eq!((&frame["event"], &frame["data"]), (&json!("unsubscribed"), expected), "{told}");
            }
            let Some(ws) = connect(principal, way, &[]).await else { continue };
            let mut ws = ws.unwrap_or_else(|status| panic!("{told}: {status}"));
            ws.ready().await;
            let late = ws.done("subscribe", json!({"topics": all})).await;
            assert_eq!(texts(&late["topics"]), granted, "{told}");
            assert_eq!(late["refused"], Value::from(as_told.clone()), "{told}");
        }
    }
}

#[tokio::test]
async fn every_operation_has_its_row_and_what_has_none_cannot_be_reached() {
    let server = server();
    let api = server.api_of("default", ALL);
    let walked = COMMANDS.iter().flat_map(|row| row.operations);
    let walked = walked.chain(LISTENING).chain(OPEN).chain(STREAMS.iter().map(|(operation, _)| operation));
    let walked: BTreeSet<&str> = walked.copied().filter(|own| !own.starts_with("WS ")).collect();
    let served = operations(&api).await;
    let served: BTreeSet<&str> = served.iter().map(String::as_str).collect();
    assert_eq!(
        walked, served,
        "walked, and served: an operation belongs into a row of tests/it/rights/table.rs"
    );
    for operation in OPEN {
        let recipe = Recipe::of(operation);
        assert_eq!(recipe.send(&api.anonymous(), &[]).await.status, recipe.granted, "{operation}");
    }
    let mut ws = Ws::open(server.address(), api.key(), "").await;
    ws.ready().await;
    for (what, operations) in NOT_YET {
        for operation in *operations {
            let (method, rest) = operation.split_once(' ').expect("a method and what it is about");
            let reached = match (method, rest.strip_prefix("command ")) {
                ("WS", Some(name)) => {
                    let code =
                        ws.ask("command", json!({"name": name, "data": {}})).await["error"]["code"].clone();
                    code != "unknown_command"
                }
                ("WS", None) => ws.ask(rest, json!({})).await["error"]["code"] != "unknown_op",
                _ => {
                    let answer = api.call(method, rest, &json!({})).await;
                    answer.status != 404 || answer.json()["code"] != "no_such_route"
                }
            };
            assert!(!reached, "{operation} is there: {what} is to be walked, see tests/it/rights/table.rs");
        }
    }
}
