use std::time::Duration;

use super::{FLEET, TOPIC, scenarios};
use crate::support::load::{Copying, Publishing, Reports};
use crate::support::redis::{GroupOptions, Sentinels};
use crate::support::{Api, Server, ServerOptions, eventually};

#[tokio::test]
async fn a_master_that_is_killed_while_publishing_is_followed_by_another_one() {
    scenarios::killed("sentinel", Sentinels::start().await).await;
}

#[tokio::test]
async fn a_master_that_is_killed_in_silence_is_missed_by_who_listens() {
    scenarios::killed_in_silence(Sentinels::start().await).await;
}

#[tokio::test]
async fn a_failover_and_the_way_back_are_two_runs_of_the_log() {
    scenarios::handed_over_there_and_back("sentinel", Sentinels::start().await).await;
}

#[tokio::test]
async fn what_a_successor_has_not_got_is_told() {
    scenarios::killed_before_its_replicas_have_it_all("sentinel", Sentinels::start().await).await;
}

/// It takes nothing more before it has a successor.
#[tokio::test]
async fn a_master_that_is_cut_off_and_goes_on_answering_takes_nothing_that_is_lost() {
    let options = GroupOptions::default()
        .timeout(Duration::from_secs(4))
        .set("min-replicas-to-write 1")
        .set("min-replicas-max-lag 1");
    scenarios::cut_off("sentinel, replicas needed", Sentinels::with(options).await).await;
}

/// Both take appends for a while.
#[tokio::test]
async fn a_master_that_hands_over_without_noticing_takes_nothing_that_is_lost() {
    scenarios::cut_off("sentinel", Sentinels::start().await).await;
}

#[tokio::test]
async fn a_leader_that_is_left_with_the_old_master_keeps_no_command_from_the_others() {
    left_with_the_old_master(GroupOptions::default(), async |_, _| {}).await;
}

#[tokio::test]
async fn a_leader_whose_master_takes_no_writes_any_more_keeps_no_command_from_the_others() {
    let options = GroupOptions::default().set("min-replicas-to-write 1").set("min-replicas-max-lag 1");
    left_with_the_old_master(options, async |_, _| {}).await;
}

/// What it begins then is later than what its successor began, by the clock.
#[tokio::test]
async fn an_old_master_that_is_restarted_alone_keeps_no_command_from_the_others() {
    let restart = async |redis: &mut Sentinels, old| {
        redis.kill(old);
        redis.restart(old).await;
    };
    left_with_the_old_master(GroupOptions::default(), restart).await;
}

/// The node that leads reaches the old master alone, and the others the new one, but all of them the database.
async fn left_with_the_old_master(options: GroupOptions, then: impl AsyncFnOnce(&mut Sentinels, usize)) {
    let mut redis = Sentinels::with(options).await;
    let old = redis.master().await;
    let options = ServerOptions::default().cluster(3).unlimited().env("REDIS_URL", redis.url());
    let mut server = Server::with(options);
    for node in [1, 2] {
        server.kill_node(node);
    }
    server.kill_node(0);
    let old_alone = format!("redis://{}", redis.address(old));
    server.start_node_with(0, |options| options.env("REDIS_URL", old_alone));
    let (api, operator) = (server.api(), server.operator().at(0));
    leads(&operator).await;
    for node in [1, 2] {
        server.start_node(node);
    }
    // somebody listens at that node, too: it follows the log that the old master has
    let mut left = api.at(0).listen(TOPIC, None).await;
    left.ready().await;
    let mut copies = Vec::new();
    for node in [1, 2] {
        copies.push(Copying::start(api.at(node), FLEET, TOPIC).await);
    }
    let reports = Reports::start(api.at(1), FLEET);
    let publishing = Publishing::start(api.at(2), TOPIC);
    reports.reaches(20).await;
    assert_eq!(operator.metric("bongsu_leader").await, 1.0);
    redis.isolate(old);
    redis.new_master(old).await;
    reports.reaches(reports.count() + 50).await;
    publishing.goes_on().await;
    then(&mut redis, old).await;
    reports.reaches(reports.count() + 50).await;
    publishing.goes_on().await;
    let (version, published) = (reports.stop().await, publishing.stop().await);
    for copy in &copies {
        assert_eq!(copy.reaches(version, &published).await.told.len(), 1);
    }
    assert_eq!(operator.metric("bongsu_leader").await, 0.0, "it has let go");
}

async fn leads(operator: &Api) {
    let leads = async || (operator.metric("bongsu_leader").await == 1.0).then_some(());
    eventually("the node to lead", leads).await;
}
