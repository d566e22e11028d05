//! What the metrics say about traffic, and how a request is followed through the actors to its deliveries.

use serde_json::json;

use crate::support::{Api, Client, Server, ServerOptions, Transport, eventually};

/// A server, and where its metrics are open.
fn measured() -> (Server, Api) {
    let server = Server::with(ServerOptions::default().set("metrics.bind", "127.0.0.1:0"));
    let address = server.metrics_address().expect("an open port for metrics");
    (server, Api::new(address, None))
}

#[tokio::test]
async fn every_kind_of_actor_tells_its_handling_time_and_its_mailbox() {
    let (server, metrics) = measured();
    let text = metrics.get("/metrics").await.text;
    for actor in ["appender", "room_registry", "session"] {
        for series in ["mailbox_waiting", "mailbox_refused_total", "actor_handling_seconds_count"] {
            let series = format!("bongsu_{series}{{actor=\"{actor}\"}} ");
            assert!(text.contains(&series), "before any traffic: {series}");
        }
    }
    let handled = async |actor: &str| {
        metrics.metric(&format!("bongsu_actor_handling_seconds_count{{actor=\"{actor}\"}}")).await
    };
    let (api, before) = (server.api(), handled("appender").await);
    let started = std::time::Instant::now();
    let (mut client, _) = Client::over(Transport::WebSocket, &api, "topic:news", None).await;
    for number in 0..20 {
        api.publish("topic:news", "note", json!({"number": number})).await;
    }
    for _ in 0..20 {
        client.event().await;
    }
    // each publish was awaited, so each was a batch of its own, and each woke the only listener's worker
    assert!(handled("appender").await >= before + 20.0);
    assert!(handled("room_registry").await >= 20.0);
    assert!(handled("session").await >= 1.0, "it began");
    drop(client);
    for actor in ["appender", "room_registry", "session"] {
        let waiting = format!("bongsu_mailbox_waiting{{actor=\"{actor}\"}}");
        eventually("empty mailboxes", async || (metrics.metric(&waiting).await == 0.0).then_some(())).await;
        let sum = format!("bongsu_actor_handling_seconds_sum{{actor=\"{actor}\"}}");
        let (sum, most) = (metrics.metric(&sum).await, started.elapsed().as_secs_f64() * 16.0);
        assert!(sum > 0.0 && sum < most, "{actor}: {sum} s");
    }
}

#[tokio::test]
async fn the_database_pools_tell_their_size_their_use_and_the_waits_for_them() {
    let (server, metrics) = measured();
    let of = async |series: &str, pool: &str| {
        metrics.metric(&format!("bongsu_database_{series}{{pool=\"{pool}\"}}")).await
    };
    assert_eq!(of("connections_max", "write").await, 1.0, "SQLite has one writer");
    assert!(of("connections_max", "read").await >= 1.0);
    let before = (of("wait_seconds_count", "write").await, of("wait_seconds_count", "read").await);
    for number in 0..10 {
        server.api().publish("topic:news", "note", json!({"number": number})).await;
        assert_eq!(server.api().get("/v2/fleets").await.status, 200);
    }
    assert!(of("wait_seconds_count", "write").await >= before.0 + 10.0);
    assert!(of("wait_seconds_count", "read").await >= before.1 + 10.0);
    for pool in ["read", "write"] {
        let (most, used) = (of("connections_max", pool).await, of("connections_in_use", pool).await);
        assert!((0.0..=most).contains(&used), "{pool}: {used} of {most}");
        assert_eq!((of("waiting", pool).await, of("wait_timeouts_total", pool).await), (0.0, 0.0), "{pool}");
    }
}
