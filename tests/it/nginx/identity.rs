//! Who is calling, and who must not find out.

use serde_json::json;

use super::passing::breaking_behind;
use super::{cluster, is_tls};
use crate::support::nginx::switched_on;
use crate::support::{Api, Nginx, Poller, Raw, Server, ServerOptions, Sse, Ws, eventually};

/// A caller at another address of this machine, which is a proxy's to nobody.
fn neighbour() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
    client.build().expect("a client")
}

#[tokio::test]
async fn the_nodes_know_the_client_by_its_own_address_whatever_it_says() {
    let (server, nginx) = cluster(ServerOptions::default()).await;
    let url = nginx.api("").url("/v2/realtime/stream?topics=topic:news");
    let request = neighbour().get(url).header("X-API-Key", server.key());
    Sse::open(request.header("X-Forwarded-For", "203.0.113.9")).await.ready().await;
    let is_connected = |line: &&str| line.contains("connected") && line.contains("127.0.0.2");
    eventually("the line of the connection", async || {
        server.stderr().lines().any(|line| is_connected(&line)).then_some(())
    })
    .await;
    assert!(!server.stderr().contains("203.0.113.9"));
}

/// The configuration with the keys of tenants, believing this network.
fn with_tenants<'a>(file: &'a str, network: &'a str) -> impl Fn(&str) -> String + 'a {
    move |text| {
        switched_on(text, |line| !is_tls(line))
            .replace("/etc/nginx/bongsu-tenants.conf", file)
            .replace("10.0.0.0/8", network)
    }
}

/// A file with the key of tenant `acme`.
fn keys(key: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("acme {key};\n")).expect("writable");
    let path = file.path().display().to_string();
    (file, path)
}

fn as_kim(request: reqwest::RequestBuilder, tenant: &str) -> reqwest::RequestBuilder {
    request.header("x-tenant-id", tenant).header("x-user-id", "kim")
}

#[tokio::test]
async fn a_tenants_key_is_lent_to_whoever_is_believed() {
    let server = Server::with(ServerOptions::default().cluster(3));
    let acme = server.api_of("acme", "act_as_user");
    let (_file, keys) = keys(acme.key());
    let nginx = Nginx::with(&server.addresses(), with_tenants(&keys, "127.0.0.1/32")).await;
    let shipped = Nginx::before(&server.addresses()).await;
    let path = "/v2/realtime/stream?topics=user:kim";
    let asking = |nginx: &Nginx| nginx.api("").anonymous().request("GET", path);
    let ready = Sse::open(as_kim(asking(&nginx), "acme")).await.ready().await;
    assert_eq!((&ready["tenant_id"], &ready["user_id"]), (&json!("acme"), &json!("kim")));
    let refused = [
        as_kim(neighbour().get(nginx.api("").url(path)), "acme"),
        as_kim(asking(&nginx), "globex"),
        asking(&nginx),
        as_kim(asking(&shipped), "acme"),
    ];
    for request in refused {
        assert_eq!(request.send().await.expect("an answer").status(), 401);
    }
    nginx.api(server.key()).listen("topic:news", None).await.ready().await;
    assert!(!nginx.logs().contains(acme.key()));
}

#[tokio::test]
async fn credentials_of_a_callers_own_are_never_replaced() {
    let (_file, keys) = keys("lent");
    let (nginx, taken) = breaking_behind(with_tenants(&keys, "127.0.0.1/32")).await;
    let stranger = nginx.api("").anonymous();
    let post = |api: &Api, query: &str| api.request("POST", &format!("/api/sse{query}"));
    let cases = [
        (as_kim(post(&stranger, ""), "acme"), Some("lent")),
        (as_kim(post(&stranger, ""), "globex"), None),
        (post(&stranger, ""), None),
        (post(&nginx.api("own"), ""), Some("own")),
        (as_kim(post(&nginx.api("own"), ""), "acme"), Some("own")),
        (as_kim(post(&stranger.bearing("own"), ""), "acme"), None),
        (as_kim(post(&stranger, "?ticket=own"), "acme"), None),
    ];
    for (number, (request, expected)) in cases.into_iter().enumerate() {
        assert_eq!(request.send().await.expect("an answer").status(), 502);
        let request = taken().pop().unwrap_or_else(|| panic!("{number}: no node was asked"));
        let key = request
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("x-api-key: ").map(str::to_owned));
        assert_eq!(key.as_deref(), expected, "{number}: {request}");
    }
}

/// Says a secret in every way that has a place for one, to nodes that may be away.
async fn say_everywhere(nginx: &Nginx, key: &str, secret: &str) {
    let api = nginx.api(key);
    let query = format!("topics=topic:news&ticket={secret}&cursor={secret}");
    let streams = api.anonymous().request("GET", &format!("/v2/realtime/stream?{query}"));
    let referer = format!("http://{}/page?ticket={secret}", nginx.address());
    let accepted = streams.header("Accept", "text/event-stream").header("Referer", referer);
    Api::send(accepted).await.expect("an answer");
    let poller = Poller::new(&api, "topic:news", Some(secret));
    Api::send(poller.request(0, "")).await.expect("an answer");
    let path = format!("/v2/realtime/ws?{query}");
    let refused = Ws::try_open(nginx.address(), &path, &[("x-api-key", secret)]).await;
    refused.err().expect("no such ticket");
    api.get(&format!("/v2/fleets?limit={secret}")).await;
    api.post_text(&format!("/v2/events?ticket={secret}"), "x".repeat((1 << 20) + 1)).await;
    // and what is no request at all
    let long = "x".repeat(40_000);
    for request in [
        format!("GET /v2/fleets?ticket={secret} JUNK/1.1\r\n\r\n"),
        format!("GET ?ticket={secret} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /v2/fleets?ticket={secret}&x={long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /v2/fleets?ticket={secret} HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
    ] {
        let mut raw = Raw::connect(nginx.address()).await;
        raw.send(request).await;
        raw.rest().await;
    }
}

#[tokio::test]
async fn no_query_and_no_credential_is_in_any_log_of_the_proxy() {
    let (mut server, nginx) = cluster(ServerOptions::default()).await;
    let secret = "bt_0123456789abcdef-Secret";
    let key = server.key().to_owned();
    say_everywhere(&nginx, &key, secret).await;
    let mut stream = nginx.api(&key).listen("topic:news", None).await;
    let cursor = stream.ready().await["position"].as_str().expect("a position").to_owned();
    server.kill();
    assert_eq!(stream.next().await, None);
    say_everywhere(&nginx, &key, secret).await;
    let lines = |nginx: &Nginx| nginx.logs().matches("\"upstream_status\":\"502, 502, 502\"").count();
    eventually("failures to be in the log", async || (lines(&nginx) >= 1).then_some(())).await;
    let logs = nginx.logs();
    for told in ["/v2/realtime/stream", "/v2/realtime/ws", "/v2/realtime/poll", "/v2/events"] {
        assert!(logs.contains(&format!("\"path\":\"{told}\"")), "{told} is not in {logs}");
    }
    for kept in [secret, &key, &cursor, "ticket", "topic:news", "cursor"] {
        assert!(!logs.contains(kept), "{kept} is in {logs}");
    }
}
