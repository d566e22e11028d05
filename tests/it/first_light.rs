//! An EI update reaches every SSE client, and a client that was away misses nothing.

use crate::support::Server;

#[tokio::test]
async fn an_ei_update_reaches_a_listener_with_every_field() {
    let server = Server::start();
    let api = server.api();
    let mut stream = api.stream("/v2/realtime/ei-updates?fleet_ids=FLT-A01,FLT-B02", None).await;
    let ready = stream.ready().await;
    assert_eq!(ready["topics"], serde_json::json!(["fleet:FLT-A01", "fleet:FLT-B02"]));
    assert!(ready["recovered"].is_null() && ready["reason"].is_null());
    assert_eq!(stream.retry_ms, Some(1000));
    let answer = api.update_ei("FLT-A01", 72.5).await;
    let event = stream.expect("ei_updated").await;
    assert_eq!(event.data, answer);
    assert_eq!(event.data["old_ei"], serde_json::Value::Null);
    assert_eq!((event.data["new_ei"].as_f64(), event.data["version"].as_i64()), (Some(72.5), Some(1)));
}

#[tokio::test]
async fn a_listener_that_was_away_while_the_server_was_killed_misses_nothing() {
    let mut server = Server::start();
    let api = server.api();
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    api.update_ei("FLT-A01", 1.0).await;
    assert_eq!(stream.expect("ei_updated").await.data["data"]["new_ei"], 1);
    let cursor = stream.cursor.clone().expect("an id");
    drop(stream);
    api.update_ei("FLT-A01", 2.0).await;
    server.kill();
    server.restart(|options| options);
    api.update_ei("FLT-A01", 3.0).await;
    let mut stream = api.listen("fleet:FLT-A01", Some(&cursor)).await;
    let ready = stream.ready().await;
    assert_eq!(
        (ready["recovered"].as_bool(), ready["position"].as_str()),
        (Some(true), Some(cursor.as_str()))
    );
    // the newest may come live: an update is answered at its commit, a moment before it is in the log
    let missed = stream.take(2).await;
    let values: Vec<_> = missed.iter().map(|event| event.data["data"]["new_ei"].as_i64().unwrap()).collect();
    assert_eq!(values, [2, 3]);
}
