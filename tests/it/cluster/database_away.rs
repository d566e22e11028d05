//! PostgreSQL dies under a cluster: what needs it says so, all else goes on, and nothing is lost.

use serde_json::json;

use super::{entries, leader, versions};
use crate::support::{Api, Issuer, Postgres, Redis, Server, ServerOptions, eventually, from_now};

#[tokio::test]
async fn a_database_that_dies_under_a_cluster_stops_commands_alone_and_nothing_is_lost() {
    let mut postgres = Postgres::start();
    let server = Server::with(ServerOptions::default().cluster(2).env("DATABASE_URL", postgres.url()));
    let (api, operator) = (server.api(), server.operator());
    leader(&operator, [0, 1]).await;
    let mut streams = Vec::new();
    for node in 0..2 {
        let mut stream = api.at(node).listen("fleet:FLT-A01,topic:a", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    api.update_ei("FLT-A01", 1.0).await;
    postgres.kill();
    let update = json!({"fleet_id": "FLT-A01", "new_ei": 2});
    for node in 0..2 {
        let api = api.at(node);
        let answer =
            Api::send(api.request("POST", "/v2/fleet/ei-update").json(&update)).await.expect("an answer");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!(api.get("/ready").await.status, 503);
        // the log needs no database
        api.publish("topic:a", "tick", json!({"node": node})).await;
    }
    eventually("no node to lead without the database", async || {
        (operator.metric("bongsu_leader").await == 0.0).then_some(())
    })
    .await;
    postgres.restart();
    leader(&operator, [0, 1]).await;
    let next = eventually("a command that is carried out", async || {
        let answer = api.post("/v2/fleet/ei-update", &update).await;
        (answer.status == 200).then(|| answer.json()["version"].as_i64().expect("a version"))
    })
    .await;
    for stream in &mut streams {
        let mut heard = Vec::new();
        while versions(&heard).last() != Some(&next) {
            heard.extend(stream.take(1).await);
        }
        assert_eq!(versions(&heard), (1..=next).collect::<Vec<_>>(), "each once and in order");
        assert_eq!(heard.iter().filter(|event| event.event == "tick").count(), 2);
    }
    let logged = entries(&server, "default");
    assert_eq!(logged.iter().filter(|entry| entry["event"] == "ei_updated").count() as i64, next);
}

#[tokio::test]
async fn what_a_user_was_granted_stays_while_nobody_can_be_asked_about_it() {
    const SECRET: &str = "a secret of at least thirty-two bytes";
    let (mut postgres, mut redis) = (Postgres::start(), Redis::start().await);
    let options = ServerOptions::default().cluster(1).env("DATABASE_URL", postgres.url());
    let server = Server::with(options.env("REDIS_URL", redis.url()).env("JWT_SECRET", SECRET));
    let api = server.api();
    let claims = json!({"sub": "kim", "exp": from_now(600)});
    let user = api.anonymous().bearing(&Issuer::shared(SECRET, None).sign(&claims));
    // a bid that nobody has created: it may live elsewhere, and is looked for again and again
    let mut stream = user.listen("ranking:elsewhere", None).await;
    stream.ready().await;
    postgres.kill();
    redis.kill();
    redis.restart().await;
    let event = json!({"topic": "ranking:elsewhere", "type": "note", "data": {"n": 1}});
    eventually("publishes to be taken again", async || {
        (api.post("/v2/events", &event).await.status == 202).then_some(())
    })
    .await;
    assert_eq!(stream.ready().await["reason"], "epoch_changed");
    assert_eq!(stream.take(1).await[0].data["data"]["n"], 1);
}
