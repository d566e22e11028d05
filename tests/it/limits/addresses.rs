//! Whom a request comes from, and who is believed about it.

use super::{behind_a_proxy, from};
use crate::support::{Api, Server, ServerOptions, eventually};

fn strict(options: ServerOptions) -> Server {
    Server::with(options.set("limits.attempts_per_min", 3).set("limits.failure_delay_max_ms", 0))
}

async fn statuses(stranger: &Api, forwarded: impl Fn(u32) -> String) -> Vec<u16> {
    let mut statuses = Vec::new();
    for number in 0..5 {
        statuses.push(from(&forwarded(number), stranger, "/v2/fleets").await.status);
    }
    statuses
}

const LIMITED: [u16; 5] = [401, 401, 401, 429, 429];

#[tokio::test]
async fn a_client_that_makes_up_addresses_is_not_believed() {
    let server = strict(ServerOptions::default());
    let stranger = server.api().anonymous();
    assert_eq!(statuses(&stranger, |number| format!("198.51.100.{number}")).await, LIMITED);
}

#[tokio::test]
async fn what_a_client_of_a_proxy_makes_up_is_not_believed_either() {
    let server = strict(behind_a_proxy());
    let stranger = server.api().anonymous();
    let forged = |number: u32| format!("198.51.100.{number}, 203.0.113.9, 127.0.0.1");
    assert_eq!(statuses(&stranger, forged).await, LIMITED);
    // each client of the proxy is one of its own
    assert_eq!(statuses(&stranger, |number| format!("192.0.2.{number}")).await, [401; 5]);
}

#[tokio::test]
async fn only_the_configured_header_is_believed() {
    let server = strict(behind_a_proxy().set("server.forwarded_header", "forwarded"));
    let stranger = server.api().anonymous();
    assert_eq!(statuses(&stranger, |number| format!("198.51.100.{number}")).await, LIMITED);
    for number in 0..5 {
        let said = format!("for=192.0.2.66, for=\"[2001:db8:{number}::1]:4711\";proto=https");
        let answer = Api::send(stranger.request("GET", "/v2/fleets").header("Forwarded", said)).await;
        assert_eq!(answer.expect("an answer").status, 401);
    }
}

#[tokio::test]
async fn the_log_names_the_client_behind_the_proxy() {
    let server = Server::with(behind_a_proxy());
    super::listen_from("2001:db8::7", &server.api()).await.ready().await;
    eventually("the line of the connection", async || {
        server
            .stderr()
            .lines()
            .any(|line| line.contains("connected") && line.contains("2001:db8::7"))
            .then_some(())
    })
    .await;
}
