//! Tenants never see each other: whatever a principal of one tenant asks for, and however, nothing of another
//! tenant is read, changed, heard, or told to be there.

use bongsu::domain::TopicKind;
use serde_json::{Value, json};

use crate::support::{
    Answer, Api, Client, Frame, Issuer, OPEN, Poller, RECIPES, Recipe, Server, ServerOptions, Sse, Transport,
    Ws, eventually, from_now, operations,
};

const SECRET: &str = "a secret of at least thirty-two bytes";
const ALL: &str = "publish,subscribe,manage,admin,act_as_user";
/// Stands in every text that is the tenant's own and that nobody else could know.
const MARK: &str = "acme";

const TRANSPORTS: [Transport; 5] = [
    Transport::Sse,
    Transport::SseBatches,
    Transport::Poll,
    Transport::WebSocket,
    Transport::WebSocketBatches,
];

/// One topic of every kind there is.
fn every_topic() -> Vec<String> {
    let topic = |kind: TopicKind| match kind {
        kind if kind.is_bare() => kind.as_str().to_owned(),
        TopicKind::User => "user:me".to_owned(),
        TopicKind::Presence => "presence:topic:open".to_owned(),
        kind => format!("{}:FLT-1", kind.as_str()),
    };
    TopicKind::ALL.into_iter().map(topic).chain(["topic:open".to_owned()]).collect()
}

fn token(tenant: &str, sub: &str, roles: &[&str]) -> String {
    let claims =
        json!({"sub": sub, "roles": roles, "tenant": tenant, "iat": from_now(0), "exp": from_now(600)});
    Issuer::shared(SECRET, None).sign(&claims)
}

/// A tenant with something of everything, and clients that listen.
struct Acme {
    api: Api,
    me: Api,
    key_id: String,
    ticket_id: String,
    job_id: String,
    position: String,
    streams: Vec<Sse>,
    sockets: Vec<Ws>,
}

impl Acme {
    async fn furnish(server: &Server) -> Acme {
        let (key_id, api) = server.new_key(&["--tenant", MARK, "--scopes", ALL]);
        let me = api.anonymous().bearing(&token(MARK, "me", &[]));
        let position = api.publish("topic:open", "note", json!("acme's first")).await;
        for fleet in ["FLT-1", "acme-fleet"] {
            api.update_ei(fleet, 7.25).await;
        }
        for order in ["FLT-1", "acme-order"] {
            let order =
                json!({"order_id": order, "shipper": "acme-user", "carrier": "me", "cargo": "acme's"});
            api.post("/v2/orders", &order).await.expect(201);
        }
        for bid in ["FLT-1", "acme-bid"] {
            let draft = json!({"bid_id": bid, "title": "acme's", "origin": 1, "destination": 2, "cargo": 3, "visibility": "open",
                "criteria": [{"field": "price", "weight": 1, "direction": "asc", "reference": 1}]});
            api.post("/v2/bids", &draft).await.expect(201);
            api.post(&format!("/v2/bids/{bid}/open"), &json!({})).await.expect(200);
            let proposal = json!({"proposal_id": "P", "carrier_id": "acme-carrier", "price": 1, "ei": 1,
                "lead_time_hours": 1});
            api.post(&format!("/v2/bids/{bid}/proposals"), &proposal).await.expect(201);
        }
        let report = json!({"new_status": "assigned", "reason": "acme's"});
        api.post("/v2/orders/FLT-1/status", &report).await.expect(200);
        for topic in ["crew", "acme-topic"] {
            api.call("PUT", &format!("/v2/topics/{topic}"), &json!({"membership": true})).await.expect(201);
            let members = json!({"users": ["me", "acme-user"]});
            api.call("POST", &format!("/v2/topics/{topic}/members"), &members).await.expect(200);
        }
        for topic in every_topic() {
            api.publish(&topic, "acme-note", json!("acme's past")).await;
        }
        // more than a stranger makes of its own
        for _ in 0..9 {
            me.post("/accounts", &json!({"name": "acme's", "balance": 7})).await.expect(201);
        }
        let jobs = eventually("their snapshots", async || {
            let done = api.get("/v2/admin/jobs?state=done").await.expect(200)["jobs"].clone();
            Some(done).filter(|done| done.as_array().expect("jobs").len() == 9)
        })
        .await;
        let ticket = me.post("/v2/realtime/tickets", &json!({"topics": ["topic:open"]})).await.expect(201);
        let by_ticket = format!("?topics=topic:open&ticket={}", ticket["ticket"].as_str().expect("a ticket"));
        let credentials = api.anonymous().bearing(&token(MARK, "you", &[])).credentials();
        let headers = [(credentials[0].0, credentials[0].1.as_str())];
        let path = "/v2/realtime/ws?topics=topic:open,user:you";
        let mut own = Acme {
            streams: vec![
                api.listen("topic:open,topic:crew,fleet:FLT-1", None).await,
                api.anonymous().stream(&format!("/v2/realtime/stream{by_ticket}"), None).await,
            ],
            sockets: vec![
                Ws::open(api.address(), api.key(), "topics=topic:*,fleet:*").await,
                Ws::try_open(api.address(), path, &headers).await.expect("open"),
            ],
            key_id,
            job_id: jobs[0]["id"].as_str().expect("an id").to_owned(),
            ticket_id: ticket["ticket_id"].as_str().expect("an id").to_owned(),
            api,
            me,
            position,
        };
        for stream in &mut own.streams {
            stream.ready().await;
        }
        for socket in &mut own.sockets {
            socket.ready().await;
        }
        own
    }

    /// What others may know or guess.
    fn names(&self) -> [(&'static str, &str); 10] {
        [
            ("fleet", "FLT-1"),
            ("topic", "topic:open"),
            ("named", "crew"),
            ("user", "me"),
            ("kicked", "you"),
            ("key", &self.key_id),
            ("ticket", &self.ticket_id),
            ("job", &self.job_id),
            ("account", "9"),
            ("position", &self.position),
        ]
    }

    /// All that can be read of it.
    async fn state(&self) -> Vec<(&'static str, String)> {
        let mut state = Vec::new();
        for recipe in RECIPES.iter().filter(|recipe| recipe.operation.starts_with("GET ")) {
            let answer = recipe.send(&self.api, &self.names()).await;
            if answer.status == 200
                && !recipe.operation.contains("/realtime/")
                && recipe.operation != "GET /ready"
            {
                state.push((recipe.operation, masked(&answer.text, &[])));
            }
        }
        for path in ["/accounts", "/snapshots"] {
            state.push((path, masked(&self.me.get(path).await.expect(200).to_string(), &[])));
        }
        let poll = Poller::new(&self.me, "topic:open,user:me,topic:crew", Some(&self.position)).ask(0).await;
        assert_eq!(poll["recovered"], true);
        state.push(("its log", poll.to_string()));
        state
    }

    /// Whoever listened goes on listening, and has heard nothing meanwhile.
    async fn assert_undisturbed(&mut self) {
        self.api.publish("topic:open", "end", json!(null)).await;
        for stream in &mut self.streams {
            stream.expect("end").await;
        }
        for socket in &mut self.sockets {
            assert_eq!(socket.event().await["event"], "end");
        }
    }
}

/// Names that nobody has.
fn nobodys(position: &str) -> [(&'static str, String); 10] {
    let (_, number) = position.split_once('-').expect("<epoch>-<seq>");
    [
        ("fleet", "FLT-0".to_owned()),
        ("topic", "topic:nobodys".to_owned()),
        ("named", "none".to_owned()),
        ("user", "no".to_owned()),
        ("kicked", "nil".to_owned()),
        ("key", uuid::Uuid::now_v7().to_string()),
        ("ticket", uuid::Uuid::now_v7().to_string()),
        ("job", uuid::Uuid::now_v7().to_string()),
        ("account", "77".to_owned()),
        ("position", format!("0123456789abcdef-{number}")),
    ]
}

/// A text without what differs from answer to answer: times, positions, new ids, and the names asked for.
fn masked(text: &str, names: &[(&str, &str)]) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let varies = |word: &str| {
        let is_time = word.len() == 24 && word.ends_with('Z');
        let is_position =
            word.split_once('-').is_some_and(|(epoch, seq)| epoch.len() == 16 && is_number(seq));
        let is_ticket = word.starts_with("bt_") || uuid::Uuid::parse_str(word).is_ok();
        is_time || is_position || is_ticket
    };
    let mask = |word: &str| match names
        .iter()
        .find(|(_, value)| word == *value || word.strip_prefix("topic:") == Some(value))
    {
        Some((name, _)) => format!("<{name}>"),
        None if varies(word) => "…".to_owned(),
        None => word.to_owned(),
    };
    let long = names.iter().filter(|(_, value)| value.len() > 4);
    let text = long.fold(text.to_owned(), |text, (name, value)| text.replace(value, &format!("<{name}>")));
    text.split('"').map(mask).collect::<Vec<_>>().join("\"")
}

fn server() -> Server {
    Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).unlimited())
}

/// Principals of another tenant, as mighty as they come; the user is called as one of the first tenant is.
fn strangers(server: &Server) -> [Api; 3] {
    let key = server.api_of("other", ALL);
    let speaking = server.api_of("other", ALL).speaking_for("me");
    let token = server.api().anonymous().bearing(&token("other", "me", &["admin", "manager", "dispatcher"]));
    [key, speaking, token]
}

#[tokio::test]
async fn every_operation_answers_another_tenant_as_if_nothing_were_there() {
    let server = server();
    let mut acme = Acme::furnish(&server).await;
    let served = operations(&acme.api).await;
    let of_http: Vec<&Recipe> = served.iter().map(|operation| Recipe::of(operation)).collect();
    let recipes = RECIPES.iter().filter(|recipe| !recipe.operation.starts_with("WS ")).count();
    assert_eq!(recipes, of_http.len(), "every recipe is of an operation that is served");
    let before = acme.state().await;
    let (known, fresh) = (acme.names(), nobodys(&acme.position));
    let fresh: Vec<(&str, &str)> = fresh.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for stranger in &strangers(&server) {
        // what is read before anything is written, then all of it, beside entities of the stranger's own
        let reads = of_http.iter().filter(|recipe| !recipe.operation.starts_with('P'));
        for recipe in reads.chain(&of_http) {
            let answer = recipe.send(stranger, &known).await;
            let shown = |answer: &Answer, names: &[(&str, &str)]| {
                assert!(!answer.text.contains(MARK), "{}: {}", recipe.operation, answer.text);
                (answer.status, masked(&answer.text, names))
            };
            let told = shown(&answer, &known);
            if recipe.path.contains('<') || recipe.body.contains('<') {
                let of_nobody = recipe.send(stranger, &fresh).await;
                assert_eq!(told, shown(&of_nobody, &fresh), "{}", recipe.operation);
            }
            let elsewhere = recipe.request(stranger, &known).header("x-tenant-id", MARK);
            let elsewhere = elsewhere.send().await.expect("an answer").status();
            let is_open = OPEN.contains(&recipe.operation);
            let expected = if is_open { recipe.granted } else { 403 };
            assert_eq!(elsewhere, expected, "{}: in acme's name", recipe.operation);
        }
        assert_eq!(acme.state().await, before);
    }
    acme.assert_undisturbed().await;
}

#[tokio::test]
async fn every_request_over_websocket_answers_another_tenant_as_if_nothing_were_there() {
    let server = server();
    let mut acme = Acme::furnish(&server).await;
    let before = acme.state().await;
    let (known, fresh) = (acme.names(), nobodys(&acme.position));
    let fresh: Vec<(&str, &str)> = fresh.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for stranger in &strangers(&server) {
        let credentials = stranger.credentials();
        let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut ws = Ws::try_open(stranger.address(), "/v2/realtime/ws", &headers).await.expect("open");
        ws.ready().await;
        for recipe in RECIPES {
            let Some(operation) = recipe.operation.strip_prefix("WS ") else { continue };
            let mut told = Vec::new();
            for names in [&known[..], &fresh] {
                let mut reply = match operation.split_once(' ') {
                    Some((_, name)) => {
                        ws.ask("command", json!({"name": name, "data": recipe.body(names)})).await
                    }
                    None => ws.ask(operation, recipe.body(names)).await,
                };
                reply["reply"] = Value::Null;
                if operation == "command create_account" && reply["ok"] == true {
                    // the stranger's own
                    reply["data"]["id"] = Value::Null;
                }
                assert!(!reply.to_string().contains(MARK), "{reply}");
                told.push(masked(&reply.to_string(), names));
            }
            if recipe.body.contains('<') {
                assert_eq!(told[0], told[1], "{operation}");
            }
        }
        assert_eq!(acme.state().await, before);
    }
    acme.assert_undisturbed().await;
}

#[tokio::test]
async fn every_topic_of_a_tenant_is_silent_to_another_whatever_its_cursor() {
    let server = server();
    let acme = Acme::furnish(&server).await;
    let topics = every_topic();
    let prefixes: Vec<String> = TopicKind::ALL
        .iter()
        .filter(|kind| !kind.is_bare())
        .map(|kind| format!("{}:*", kind.as_str()))
        .collect();
    let [key, _, token] = strangers(&server);
    let of_service = [topics.join(","), prefixes.join(",")].join(",");
    let mut clients = Vec::new();
    for (api, topics) in [(&key, of_service), (&token, topics.join(","))] {
        for transport in TRANSPORTS {
            for cursor in [None, Some(acme.position.as_str()), Some("0123456789abcdef-1")] {
                let (client, ready) = Client::over(transport, api, &topics, cursor).await;
                assert_eq!(ready["recovered"], cursor.map_or(Value::Null, |_| json!(false)));
                assert_eq!(ready["reason"], cursor.map_or(Value::Null, |_| json!("epoch_changed")));
                clients.push(client);
            }
        }
    }
    let mut late = Ws::open(server.address(), key.key(), "").await;
    late.ready().await;
    let reply = late.done("subscribe", json!({"topics": topics, "since": acme.position})).await;
    assert_eq!((&reply["recovered"], &reply["reason"]), (&json!(false), &json!("epoch_changed")));
    for topic in &topics {
        for class in ["durable", "latest", "volatile"] {
            let event = json!({"topic": topic, "type": "acme-note", "data": "acme's", "class": class});
            acme.api.post("/v2/events", &event).await.expect(202);
        }
    }
    acme.api.update_ei("FLT-1", 9.0).await;
    let own = key.publish("topic:open", "own", json!(1)).await;
    for client in &mut clients {
        loop {
            match client.next().await.expect("a frame") {
                Frame::Event(event) => {
                    assert_eq!((event.name.as_str(), event.id.as_deref()), ("own", Some(own.as_str())));
                    break;
                }
                Frame::Position(_) | Frame::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(late.event().await["event"], "own");
}

#[tokio::test]
async fn keys_of_requests_and_events_are_another_tenants_own() {
    let server = server();
    let acme = Acme::furnish(&server).await;
    let [key, _, token] = strangers(&server);
    let event = |n: u32| json!({"topic": "topic:k", "type": "note", "data": n, "class": "latest", "key": "k", "version": 9});
    let once = |n: u32| json!({"topic": "topic:k", "type": "note", "data": n, "dedup_key": "d", "dedup_window_ms": 60_000});
    for (n, api) in [&acme.api, &key].into_iter().enumerate() {
        for body in [event(n as u32), once(n as u32)] {
            let answer = api.post_once("/v2/events", &body, &format!("k{}", body["class"])).await.expect(202);
            assert_eq!(answer["duplicate"], false, "{answer}");
        }
    }
    // users of the same name
    for (n, api) in [&acme.me, &token].into_iter().enumerate() {
        let body = json!({"ids": [], "n": n});
        assert_eq!(api.post_once("/v2/realtime/ack", &body, "same").await.status, 422);
        let reading = json!({"fleet_id": "FLT-2", "new_ei": n});
        let expected = if n == 0 { 403 } else { 200 };
        assert_eq!(api.post_once("/v2/fleet/ei-update", &reading, "same").await.status, expected);
    }
    let reading = |n: u32| json!({"fleet_id": "FLT-3", "new_ei": n});
    for (n, api) in [&acme.api, &key].into_iter().enumerate() {
        let answer = api.post_once("/v2/fleet/ei-update", &reading(n as u32), "same").await.expect(200);
        assert_eq!((&answer["old_ei"], &answer["version"]), (&Value::Null, &json!(1)), "{answer}");
    }
}
