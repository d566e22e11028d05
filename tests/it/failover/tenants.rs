use std::time::Duration;

use futures_util::future::join_all;

use crate::support::load::{Published, Publishing, assert_dense};
use crate::support::redis::{GroupOptions, RedisCluster};
use crate::support::{Api, Server, ServerOptions, Sse};

const TENANTS: usize = 32;

/// Somebody who publishes for a tenant, and somebody who listens.
struct Tenant {
    name: String,
    publishing: Publishing,
    stream: Sse,
}

impl Tenant {
    async fn start(name: String, api: Api, node: usize) -> Self {
        let mut stream = api.at(node).listen("topic:a", None).await;
        stream.ready().await;
        let publishing = Publishing::spaced(api, "topic:a", Duration::from_millis(50));
        Tenant { name, publishing, stream }
    }
}

/// Everything up to the last count: before it was told to load again, and after.
async fn halves(stream: &mut Sse, published: &Published) -> [Vec<u64>; 2] {
    let (mut halves, mut told) = ([Vec::new(), Vec::new()], 0);
    let last = published.count() - 1;
    while told == 0 || halves[1].last().is_none_or(|count| *count < last) {
        let event = stream.next().await.expect("the stream stays open");
        match event.event.as_str() {
            "ready" => {
                assert_eq!((told, &event.data["reason"]), (0, &"epoch_changed".into()), "{event:?}");
                told = 1;
            }
            "close" => panic!("{event:?}"),
            "counted" => halves[told].push(event.data["data"]["count"].as_u64().expect("a number")),
            _ => {}
        }
    }
    halves
}

#[tokio::test]
async fn of_many_tenants_only_those_of_the_dead_master_notice_anything() {
    // others go on serving what they have
    let options = GroupOptions::default().set("cluster-require-full-coverage no");
    let mut redis = RedisCluster::with(options).await;
    let options = ServerOptions::default().cluster(3).unlimited().env("REDIS_URL", redis.url());
    let server = Server::with(options);
    let names = (0..TENANTS).map(|n| format!("tenant-{n}"));
    let keys: Vec<_> = names.map(|name| (server.api_of(&name, "publish,subscribe"), name)).collect();
    let mut tenants = Vec::new();
    for (n, (api, name)) in keys.into_iter().enumerate() {
        tenants.push(Tenant::start(name, api, n % 3).await);
    }
    let owner = |name: &str| redis.owner(redis.slot(&format!("{{{name}}}")));
    let dead = owner(&tenants[0].name);
    let is_hit: Vec<bool> = tenants.iter().map(|tenant| owner(&tenant.name) == dead).collect();
    let hit = is_hit.iter().filter(|own| **own).count();
    assert!((2..TENANTS - 8).contains(&hit), "{hit} of {TENANTS} are the dead master's");
    for tenant in &tenants {
        tenant.publishing.reaches(5).await;
    }
    redis.kill(dead);
    redis.failover_by_itself(dead).await;
    join_all(tenants.iter().map(|tenant| tenant.publishing.goes_on())).await;
    let end = |tenant: Tenant| async move { (tenant.name, tenant.publishing.stop().await, tenant.stream) };
    let ended = join_all(tenants.into_iter().map(end)).await;
    for ((name, published, mut stream), is_hit) in ended.into_iter().zip(is_hit) {
        if is_hit {
            let [before, after] = halves(&mut stream, &published).await;
            for half in [&before, &after] {
                assert!(half.is_sorted_by(|a, b| a + 1 == *b), "{name}: {half:?}");
            }
            assert!(after[0] <= before.last().map_or(0, |last| last + 2), "{name}: {before:?} {after:?}");
        } else {
            assert_eq!(published.refused, 0, "{name}");
            assert_dense(&mut stream, published.count()).await;
        }
    }
    let renewals = server.operator().metric("bongsu_log_renewals_total").await;
    assert_eq!(renewals, hit as f64, "each at the node that follows it");
}
