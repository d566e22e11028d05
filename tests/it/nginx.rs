//! The nginx that is shipped, in front of the nodes of a cluster.

mod away;
mod identity;
mod passing;

use serde_json::{Value, json};

use crate::support::nginx::{cluster, switched_on};
use crate::support::tls::{self, Certificates, CurlStream};
use crate::support::{Api, Follower, Nginx, Poller, Server, ServerOptions, Transport, Way, Ws, eventually};

const STREAMS: &str = r#"bongsu_connections{transport="sse",tenant="default"}"#;

/// Whether a line that is off belongs to TLS.
fn is_tls(line: &str) -> bool {
    ["listen", "ssl_", "add_header Strict"].iter().any(|own| line.starts_with(own))
}

/// The shipped file with TLS in place of plain HTTP.
fn with_tls(certificates: &Certificates) -> impl Fn(&str) -> String {
    let path = |name| certificates.path(name).display().to_string();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    move |shipped| {
        let plain = "        listen 80 default_server;\n";
        assert!(shipped.contains(plain));
        switched_on(&shipped.replace(plain, ""), is_tls)
            .replace("/etc/nginx/bongsu.crt", &certificate)
            .replace("/etc/nginx/bongsu.key", &key)
    }
}

#[test]
fn the_shipped_file_is_in_order_with_and_without_what_is_off() {
    let certificates = Certificates::new();
    let tenants = tempfile::NamedTempFile::new().expect("a file");
    let with_tenants = |text: &str| {
        let path = tenants.path().display().to_string();
        switched_on(text, |line| !is_tls(line)).replace("/etc/nginx/bongsu-tenants.conf", &path)
    };
    let with_tls = with_tls(&certificates);
    let checks = [
        Nginx::check(str::to_owned),
        Nginx::check(&with_tls),
        Nginx::check(with_tenants),
        Nginx::check(|text| with_tenants(&with_tls(text))),
    ];
    for (is_good, said) in checks {
        assert!(is_good, "{said}");
        let is_odd = |line: &&str| !line.contains("syntax is ok") && !line.contains("is successful");
        // the directive is for the root that will start it
        let odd: Vec<_> = said.lines().filter(is_odd).filter(|line| !line.contains("\"user\"")).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }
}

#[tokio::test]
async fn an_event_arrives_while_its_stream_stays_open_and_a_client_resumes_on_another_node() {
    let (mut server, nginx) = cluster(ServerOptions::default()).await;
    let (api, operator) = (nginx.api(server.key()), server.operator());
    let mut stream = api.listen("topic:news", None).await;
    assert!(
        stream.headers.get("content-length").is_none() && stream.headers.get("content-encoding").is_none()
    );
    stream.ready().await;
    for n in 0..3 {
        api.publish("topic:news", "headline", json!({"n": n})).await;
        assert_eq!(stream.take(1).await[0].data["data"]["n"], n);
    }
    let cursor = stream.cursor.clone().expect("an id");
    let node = node_with(&operator).await;
    server.kill_node(node);
    assert_eq!(stream.next().await, None, "it breaks with its node");
    api.publish("topic:news", "headline", json!({"n": 3})).await;
    let mut stream = api.listen("topic:news", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let missed: Vec<Value> =
        stream.replayed().await.iter().map(|event| event.data["data"]["n"].clone()).collect();
    assert_eq!(missed, [3]);
}

/// The node that holds the only stream.
async fn node_with(operator: &Api) -> usize {
    eventually("a node to have the stream", async || {
        for node in 0..3 {
            if operator.at(node).metric(STREAMS).await == 1.0 {
                return Some(node);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn a_websocket_is_upgraded_and_says_and_hears_events() {
    let (server, nginx) = cluster(ServerOptions::default()).await;
    let mut ws = Ws::open(nginx.address(), server.key(), "topics=topic:news").await;
    ws.ready().await;
    let event = json!({"topic": "topic:news", "type": "headline", "data": {"n": 1}});
    let done = ws.done("publish", event).await;
    let heard = ws.event().await;
    assert_eq!((&heard["id"], &heard["data"]), (&done["position"], &json!({"n": 1})));
    // a page's origin is compared with the host that it called
    let key = [("x-api-key", server.key())];
    let own = format!("http://{}", nginx.address());
    for (origin, expected) in [(own.as_str(), None), ("http://elsewhere.example", Some(403))] {
        let headers = [key[0], ("origin", origin)];
        let opened = Ws::try_open(nginx.address(), "/v2/realtime/ws", &headers).await;
        assert_eq!(opened.err(), expected, "{origin}");
    }
}

#[tokio::test]
async fn a_poll_waits_for_its_event_and_goes_on_at_another_node() {
    let (server, nginx) = cluster(ServerOptions::default()).await;
    let (api, operator) = (nginx.api(server.key()), server.operator());
    let mut poller = Poller::new(&api, "topic:news", None);
    poller.ask(0).await;
    for n in 0..3 {
        let waiting = tokio::spawn(async move {
            let answer = poller.ask(30).await;
            (poller, answer)
        });
        eventually("the poll to wait", async || {
            let name = r#"bongsu_connections{transport="poll",tenant="default"}"#;
            (operator.metric(name).await == 1.0).then_some(())
        })
        .await;
        api.publish("topic:news", "headline", json!({"n": n})).await;
        let (own, answer) = waiting.await.expect("an answer");
        let events = answer["events"].as_array().expect("events");
        assert_eq!((events.len(), &events[0]["data"]["n"]), (1, &json!(n)));
        poller = own;
    }
}

/// Follows a topic from a cursor over as many connections as it takes; the numbers it heard, and how many
/// those were.
async fn follow(api: Api, transport: Transport, cursor: String, count: usize) -> (Vec<u64>, usize) {
    let way = Way::Topics(transport, "topic:news".to_owned());
    let (mut follower, mut numbers) = (Follower::new(&api, &way, Some(&cursor)).await, Vec::new());
    while numbers.len() < count {
        numbers.push(follower.next().await.data["n"].as_u64().expect("a number"));
    }
    (numbers, follower.connections)
}

#[tokio::test]
async fn whoever_listens_at_a_node_that_is_killed_misses_nothing() {
    tokio::task::LocalSet::new().run_until(listeners_come_back_over_a_kill()).await;
}

async fn listeners_come_back_over_a_kill() {
    const EVENTS: u64 = 60;
    let (mut server, nginx) = cluster(ServerOptions::default()).await;
    let (api, operator) = (nginx.api(server.key()), server.operator());
    let start = api.publish("topic:news", "headline", json!({"n": 0})).await;
    let listen = |transport| {
        let (api, start) = (api.clone(), start.clone());
        tokio::task::spawn_local(follow(api, transport, start, EVENTS as usize))
    };
    let first = listen(Transport::Sse);
    let node = node_with(&operator).await;
    let transports = [Transport::Sse, Transport::WebSocket, Transport::Poll];
    let others: Vec<_> = transports.iter().cycle().take(9).map(|transport| listen(*transport)).collect();
    for n in 1..=EVENTS {
        if n == EVENTS / 3 {
            server.kill_node(node);
        }
        let event = json!({"topic": "topic:news", "type": "headline", "data": {"n": n}});
        api.post_until_done("/v2/events", &event, &format!("news-{n}")).await;
    }
    let expected: Vec<u64> = (1..=EVENTS).collect();
    let (numbers, connections) = first.await.expect("no panic");
    assert_eq!((&numbers, connections), (&expected, 2));
    for other in others {
        assert_eq!(other.await.expect("no panic").0, expected);
    }
}

#[tokio::test]
async fn streams_run_over_http_2_and_websockets_over_tls_in_the_example() {
    let certificates = Certificates::new();
    let server = Server::with(ServerOptions::default().cluster(3));
    let nginx = Nginx::with(&server.addresses(), with_tls(&certificates)).await;
    let (authority, address) = (certificates.path("ca.pem"), nginx.address());
    let key = format!("X-API-Key: {}", server.key());
    let args = ["--http2", "--write-out", " by HTTP/%{http_version}", "--header", &key];
    let answer = tls::curl(&authority, address, "/v2/fleets", &args).await.expect("an answer");
    assert!(answer.ends_with(" by HTTP/2"), "{answer}");
    let args = ["--http2", "--header", &key];
    let path = "/v2/realtime/stream?topics=topic:news";
    let mut stream = CurlStream::open(&authority, address, path, &args);
    stream.until("event: ready").await;
    let connection = tls::connect(&authority, address).await;
    let headers =
        [("x-api-key", server.key()), ("origin", &*format!("https://localhost:{}", address.port()))];
    let host = format!("localhost:{}", address.port());
    let ws = Ws::over(connection, &host, "/v2/realtime/ws?topics=topic:news", &headers).await;
    let mut ws = ws.expect("a connection");
    ws.ready().await;
    server.api().publish("topic:news", "headline", json!({"n": 1})).await;
    stream.until("event: headline").await;
    assert_eq!(ws.event().await["data"]["n"], 1);
}
