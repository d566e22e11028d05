//! Several nodes that share PostgreSQL and Redis are one server to their clients, whatever breaks between them.

mod across;
mod crash;
mod database_away;
mod followers;
mod leader;
mod nodes;
mod redis_away;
mod redis_changes;
mod starts;

use serde_json::Value;

use crate::support::{Api, Redis, Server, ServerOptions, SseEvent, eventually};

/// Nodes with a Redis of their own.
async fn with_own_redis(nodes: usize) -> (Redis, Server) {
    let redis = Redis::start().await;
    let server =
        Server::with(ServerOptions::default().cluster(nodes).unlimited().env("REDIS_URL", redis.url()));
    (redis, server)
}

/// A metric of one node.
async fn metric_of(operator: &Api, node: usize, name: &str) -> f64 {
    operator.at(node).metric(name).await
}

/// The node that leads, once there is one and no more.
pub(crate) async fn leader(operator: &Api, nodes: impl IntoIterator<Item = usize> + Clone) -> usize {
    eventually("one leader", async || {
        let mut leaders = Vec::new();
        for node in nodes.clone() {
            if metric_of(operator, node, "bongsu_leader").await == 1.0 {
                leaders.push(node);
            }
        }
        (leaders.len() == 1).then(|| leaders[0])
    })
    .await
}

/// The versions of a fleet's updates, in the order in which they came.
fn versions(events: &[SseEvent]) -> Vec<i64> {
    let own = events.iter().filter(|event| event.event == "ei_updated");
    own.map(|event| event.data["data"]["version"].as_i64().expect("a version")).collect()
}

/// The object of every entry in a tenant's log, as Redis has it.
fn entries(server: &Server, tenant: &str) -> Vec<Value> {
    let of = |name: &str| &server.options().env.iter().find(|own| own.0 == name).expect("a cluster's").1;
    let key = format!("{}{{{tenant}}}:log", of("BONGSU__REDIS__PREFIX"));
    let printed = crate::support::redis::cli(of("REDIS_URL"), &["XRANGE", &key, "-", "+"]);
    let objects = printed.lines().filter(|line| line.starts_with("{\"event\""));
    objects.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
