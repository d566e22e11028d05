//! What an entity says of who may hear it is in force before anything else is told of it.
//!
//! The bids of these tests are committed to the outbox as a capability would.

use serde_json::{Value, json};

use crate::support::{Api, Backend, Issuer, Outsider, Server, ServerOptions, Sse, Ws, postgres};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn user(server: &Server, sub: &str, roles: &[&str]) -> Api {
    server.api().at(server.count() - 1).bearing(&Issuer::shared(SECRET, None).token(sub, roles))
}

/// A statement that puts rows into the outbox, all or none: topic, name, data, and the public variant.
fn insertion(rows: &[(String, &str, Value, Option<Value>)]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let values = rows.iter().map(|(topic, name, data, public)| {
        let public = public.as_ref().map_or("NULL".to_owned(), |public| quoted(&public.to_string()));
        let (topic, name, data) = (quoted(topic), quoted(name), quoted(&data.to_string()));
        format!("('default', {topic}, {name}, 'durable', {data}, {public}, 0)")
    });
    let values = values.collect::<Vec<_>>().join(", ");
    format!("INSERT INTO outbox (tenant, topic, name, class, data, public, created_us) VALUES {values}")
}

/// A bid comes into being, and is at once told of on both of its topics.
fn creation(id: &str, visibility: &str) -> String {
    let created = json!({"bid_id": id, "owner": "own", "visibility": visibility});
    let topics = [format!("bid:{id}"), format!("ranking:{id}")];
    let creations = topics.iter().map(|topic| (topic.clone(), "entity.created", created.clone(), None));
    let events = topics.iter().map(|topic| (topic.clone(), "told", json!("full"), Some(json!("public"))));
    let end = ("topic:end".to_owned(), "end", Value::Null, None);
    insertion(&creations.chain(events).chain([end]).collect::<Vec<_>>())
}

fn commit(server: &Server, statement: &str) {
    match Backend::of_this_test() {
        Backend::Embedded => Outsider::open(server.data_dir()).run(statement),
        _ => drop(postgres::sql(server.database_url(), statement)),
    }
}

/// What came up to the end, in short.
async fn heard(stream: &mut Sse) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let event = stream.next().await.expect("open");
        let data = &event.data;
        match event.event.as_str() {
            "end" => return heard,
            "unsubscribed" => heard.push(format!("{} {}", data["topic"], data["code"])),
            "told" => heard.push(format!("{} {}", data["topic"], data["data"])),
            "position" => {}
            other => panic!("{other}: {event:?}"),
        }
    }
}

async fn heard_by_websocket(ws: &mut Ws) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let value = ws.next().await.expect("open");
        match value["event"].as_str() {
            Some("end") => return heard,
            Some("unsubscribed") => {
                heard.push(format!("{} {}", value["data"]["topic"], value["data"]["code"]))
            }
            Some("told") => heard.push(format!("{} {}", value["topic"], value["data"])),
            _ => {}
        }
    }
}

/// What is heard of a bid: on its own topic, and on that of its ranking, if it is heard at all.
fn expected(id: &str, bid: &str, ranking: Option<&str>, is_told: bool) -> Vec<String> {
    let bid = format!("\"bid:{id}\" \"{bid}\"");
    match ranking {
        Some(ranking) => vec![bid, format!("\"ranking:{id}\" \"{ranking}\"")],
        None if is_told => vec![format!("\"ranking:{id}\" \"forbidden\""), bid],
        None => vec![bid],
    }
}

async fn a_bid_is_heard_as_it_says_from_its_first_event_on() {
    let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET));
    let (owner, boss, lee) =
        (user(&server, "own", &[]), user(&server, "boss", &["manager"]), user(&server, "lee", &["carrier"]));
    let listener = server.api_of("default", "subscribe").at(server.count() - 1);
    for round in 0..3 {
        for (visibility, bid, ranking) in [
            ("open", "full", Some("full")),
            ("anonymous", "public", Some("public")),
            ("sealed", "public", None),
        ] {
            let id = format!("{visibility}{round}");
            let topics = format!("ranking:{id},bid:{id},topic:end");
            let mut streams = Vec::new();
            for (api, bid, ranking) in [
                (&owner, "full", Some("full")),
                (&boss, "full", Some("full")),
                (&lee, bid, ranking),
                (&listener, bid, ranking),
            ] {
                let mut stream = api.listen(&topics, None).await;
                let start = stream.ready().await["position"].as_str().expect("a position").to_owned();
                streams.push((api, stream, start, bid, ranking));
            }
            let bearer = lee.credentials().remove(0).1;
            let headers = [("authorization", bearer.as_str())];
            let path = format!("/v2/realtime/ws?topics={topics}");
            let mut ws = Ws::try_open(lee.address(), &path, &headers).await.expect("open");
            ws.ready().await;
            commit(&server, &creation(&id, visibility));
            for (api, stream, start, bid, ranking) in &mut streams {
                assert_eq!(heard(stream).await, expected(&id, bid, *ranking, true), "{visibility}");
                // the same from the log
                let asked = if ranking.is_none() { format!("bid:{id},topic:end") } else { topics.clone() };
                let mut again = api.listen(&asked, Some(start)).await;
                again.ready().await;
                assert_eq!(heard(&mut again).await, expected(&id, bid, *ranking, false), "{visibility}");
            }
            assert_eq!(heard_by_websocket(&mut ws).await, expected(&id, bid, ranking, true), "{visibility}");
            let late = ws.done("subscribe", json!({"topics": [format!("presence:ranking:{id}")]})).await;
            let refused = late["refused"].as_array().expect("a list").len();
            assert_eq!(refused, usize::from(ranking.is_none()), "{visibility}: {late}");
        }
    }
}

#[tokio::test]
async fn whoever_watches_a_bid_hears_it_as_it_says_from_its_first_event_on() {
    a_bid_is_heard_as_it_says_from_its_first_event_on().await;
}

#[tokio::test]
async fn whoever_watches_a_bid_at_any_node_hears_it_as_it_says_from_its_first_event_on() {
    Backend::Cluster.run(a_bid_is_heard_as_it_says_from_its_first_event_on()).await;
}

/// Nothing was told of any ranking but that it is not for this user.
fn assert_sealed(told: &[String]) {
    let is_told = |own: &&String| own.starts_with("\"ranking:") && !own.ends_with("\"forbidden\"");
    assert_eq!(told.iter().find(is_told), None, "{told:?}");
}

#[tokio::test]
async fn who_subscribes_at_the_very_moment_that_a_bid_comes_into_being_is_not_given_too_much() {
    let scenario = async {
        let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).unlimited());
        let lee = user(&server, "lee", &[]);
        let bearer = lee.credentials().remove(0).1;
        let path = "/v2/realtime/ws?topics=topic:end";
        let mut ws = Ws::try_open(lee.address(), path, &[("authorization", &bearer)]).await.expect("open");
        ws.ready().await;
        for round in 0..30 {
            let id = format!("B{round}");
            let (statement, url) = (creation(&id, "sealed"), server.database_url().to_owned());
            let created = tokio::task::spawn_blocking(move || postgres::sql(&url, &statement));
            let start = ws.cursor.clone().expect("a position");
            let mut subscribe = json!({"topics": [format!("ranking:{id}")]});
            if round % 2 == 0 {
                subscribe["since"] = json!(start);
            }
            ws.request("subscribe", subscribe).await;
            let path = format!("/v2/realtime/stream?topics=ranking:{id},topic:end&cursor={start}");
            let answer = lee.request("GET", &path).send().await.expect("an answer");
            match answer.status().as_u16() {
                200 => {
                    let mut stream = Sse::of(answer).await;
                    stream.ready().await;
                    assert_sealed(&heard(&mut stream).await);
                }
                status => assert_eq!(status, 403),
            }
            assert_sealed(&heard_by_websocket(&mut ws).await);
            created.await.expect("psql runs");
        }
    };
    Backend::Cluster.run(scenario).await;
}
