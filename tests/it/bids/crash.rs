//! Whoever is killed, and wherever the link is cut: each proposal that was accepted has one effect, and each key one.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;

use futures_util::future::join_all;
use serde_json::Value;

use super::watcher::Watcher;
use super::{draft, ids, open_bid, proposal, proposals, ranking};
use crate::support::{
    Answer, Api, Backend, Postgres, Proxy, Server, ServerOptions, Sse, When, eventually, on_both_backends,
};

const BID: &str = "B";
/// Proposals that are sent at once.
const ABREAST: u64 = 6;

on_both_backends! {
    a_turn_killed_before_its_commit_is_carried_out_once_by_repetitions,
    a_turn_killed_after_its_commit_is_answered_by_its_keys,
    a_ranking_of_a_server_killed_before_the_append_is_published_once,
    proposals_amid_a_kill_are_each_carried_out_once,
}

async fn a_turn_killed_before_its_commit_is_carried_out_once_by_repetitions() {
    proposals_of_a_server_killed_at("ranking.before_commit").await;
}

async fn a_turn_killed_after_its_commit_is_answered_by_its_keys() {
    proposals_of_a_server_killed_at("ranking.after_commit").await;
}

async fn a_ranking_of_a_server_killed_before_the_append_is_published_once() {
    proposals_of_a_server_killed_at("relay.before_append").await;
}

#[tokio::test]
async fn a_ranking_of_a_node_killed_between_publish_and_mark_is_published_once() {
    Backend::Cluster.run(proposals_of_a_server_killed_at("relay.before_mark")).await;
}

#[tokio::test]
async fn a_ranking_of_a_server_killed_between_append_and_delivery_is_delivered_once() {
    Backend::Embedded.run(proposals_of_a_server_killed_at("append.after_commit")).await;
}

fn options() -> ServerOptions {
    // a window that holds everybody: whoever comes back has to know all by it
    ServerOptions::default().unlimited().set("ranking.window", 200)
}

fn id(number: u64) -> String {
    format!("P-{number:03}")
}

/// Some are alike.
fn price(number: u64) -> u64 {
    number * 7 % 5
}

/// A proposal, with a key of its own.
fn offered(api: &Api, number: u64) -> reqwest::RequestBuilder {
    let request = api.request("POST", &proposals(BID)).json(&proposal(&id(number), price(number)));
    request.header("Idempotency-Key", format!("key-{number}"))
}

/// The answer to a proposal that is repeated until it is accepted; how often it was not answered, or refused for now.
async fn accepted(api: &Api, number: u64, in_vain: &Cell<u64>) -> Value {
    eventually("an answer", async || {
        match Api::send(offered(api, number)).await {
            Ok(answer) if answer.status == 201 => return Some(answer.json()),
            Ok(answer) => assert!(is_for_now(&answer), "{}: {}", answer.status, answer.text),
            Err(_) => {}
        }
        in_vain.set(in_vain.get() + 1);
        None
    })
    .await
}

fn is_for_now(answer: &Answer) -> bool {
    answer.status == 503 || answer.text.contains("idempotency_key_in_progress")
}

/// Somebody who follows the ranking from one stream to the next.
struct Follower {
    stream: Sse,
    watcher: Watcher,
    /// The version of the last frame of this stream.
    last: i64,
}

impl Follower {
    async fn new(api: &Api) -> Self {
        let mut stream = api.listen("ranking:B", None).await;
        stream.ready().await;
        Follower { stream, watcher: Watcher::default(), last: 0 }
    }

    async fn resume(&mut self, api: &Api) {
        let cursor = self.stream.cursor.clone();
        (self.stream, self.last) = (api.listen("ranking:B", cursor.as_deref()).await, 0);
        assert_eq!(self.stream.ready().await["recovered"], true);
    }

    async fn reaches(&mut self, version: i64) {
        while self.watcher.version() < version {
            let event = self.stream.take(1).await.remove(0);
            let frame = &event.data["data"];
            let told = frame["version"].as_i64().expect("a version");
            assert!(told > self.last, "{told} comes after {}", self.last);
            self.last = told;
            self.watcher.take(frame);
        }
    }
}

/// What was accepted, by the numbers of the proposals, is ranked once, for whoever asks and whoever follows.
async fn agrees(server: &Server, accepted: &[(u64, Value)], follower: &mut Follower) {
    let version = |answer: &Value| answer["version"].as_i64().expect("a version");
    let mut versions: Vec<i64> = accepted.iter().map(|(_, answer)| version(answer)).collect();
    versions.sort_unstable();
    let count = accepted.len() as i64;
    assert_eq!(versions, (1..=count).collect::<Vec<_>>(), "each was accepted once");
    let mut sorted: Vec<_> =
        accepted.iter().map(|(number, answer)| (price(*number), version(answer), id(*number))).collect();
    sorted.sort_unstable();
    let sorted: Vec<String> = sorted.into_iter().map(|(.., id)| id).collect();
    let nodes = server.api().everywhere();
    for api in &nodes {
        let shown = ranking(api, BID, "?limit=200").await;
        assert_eq!((ids(&shown), shown["version"].as_i64()), (sorted.clone(), Some(count)));
    }
    follower.resume(&nodes[nodes.len() - 1]).await;
    follower.reaches(count).await;
    let rows = follower.watcher.rows();
    let followed: Vec<_> = rows.iter().map(|row| row["proposal_id"].as_str().expect("an id")).collect();
    assert_eq!(followed, sorted);
}

/// A server whose first life has ended with one proposal published, and somebody who has followed that.
async fn one_proposal() -> (Server, Follower, Value) {
    let server = Server::with(options());
    let nodes = server.api().everywhere();
    open_bid(&nodes[0], &draft(BID)).await;
    let mut follower = Follower::new(&nodes[nodes.len() - 1]).await;
    let first = accepted(&nodes[0], 0, &Cell::default()).await;
    follower.reaches(1).await;
    let operator = server.operator();
    eventually("nothing to be left for the relay", async || {
        (operator.metric("bongsu_outbox_waiting").await == 0.0).then_some(())
    })
    .await;
    (server, follower, first)
}

async fn proposals_of_a_server_killed_at(point: &str) {
    let (mut server, mut follower, first) = one_proposal().await;
    server.kill();
    // alone, so that it relays what it commits
    server.start_node_with(0, |options| options.env("BONGSU_CRASH_AT", point));
    let dying = server.api().at(0);
    let told = join_all((1..=ABREAST).map(|number| Api::send(offered(&dying, number)))).await;
    assert_eq!(server.ended().await.signal(), Some(6), "not of the crash point");
    (0..server.count()).for_each(|node| server.start_node(node));
    let (api, in_vain) = (server.api(), Cell::default());
    let again = join_all((1..=ABREAST).map(|number| accepted(&api, number, &in_vain))).await;
    for (told, again) in told.into_iter().zip(&again) {
        // a process that ends closes what it has begun to answer in any way
        if let Ok(told) = told {
            assert_eq!(&told.expect(201), again, "it was carried out before");
        }
    }
    let mut all = vec![(0, first)];
    all.extend((1..=ABREAST).zip(again));
    agrees(&server, &all, &mut follower).await;
    // nothing comes again behind it
    all.push((99, accepted(&api, 99, &in_vain).await));
    follower.reaches(all.len() as i64).await;
    agrees(&server, &all, &mut follower).await;
}

async fn proposals_amid_a_kill_are_each_carried_out_once() {
    const PROPOSERS: u64 = 8;
    const EACH: u64 = 20;
    let (mut server, mut follower, first) = one_proposal().await;
    let (api, done, in_vain) = (server.api(), Cell::new(0), Cell::new(0));
    let propose = async |proposer: u64| {
        let mut own = Vec::new();
        for number in (1..=EACH).map(|count| proposer * EACH + count) {
            own.push((number, accepted(&api, number, &in_vain).await));
            done.set(done.get() + 1);
        }
        own
    };
    let fault = async {
        eventually("proposals", async || (done.get() >= 2 * PROPOSERS).then_some(())).await;
        server.kill_node(0);
        eventually("one without an answer", async || (in_vain.get() > 0).then_some(())).await;
        server.start_node(0);
    };
    let ((), proposed) = tokio::join!(fault, join_all((0..PROPOSERS).map(propose)));
    let mut all = vec![(0, first)];
    all.extend(proposed.into_iter().flatten());
    agrees(&server, &all, &mut follower).await;
    for (number, answer) in &all {
        assert_eq!(&accepted(&api, *number, &Cell::default()).await, answer, "its key has its answer");
    }
    assert_eq!(ranking(&api, BID, "").await["version"].as_u64(), Some(PROPOSERS * EACH + 1));
}

#[tokio::test]
async fn a_turn_whose_commit_is_cut_or_held_is_carried_out_once() {
    let postgres = Postgres::start();
    let proxy = Proxy::to(postgres.address()).await;
    let url = proxy.url(&postgres.url(), postgres.address());
    let server = Server::with(options().on_postgres(&url).set("storage.statement_timeout_ms", 2000));
    let api = server.api();
    open_bid(&api, &draft(BID)).await;
    let mut follower = Follower::new(&api).await;
    let mut all = Vec::new();
    for (round, when) in [When::Asked, When::COMMITTED, When::Held].into_iter().enumerate() {
        let numbers = (round as u64 * ABREAST..).take(ABREAST as usize);
        let (in_vain, first) = (Cell::new(0), id(round as u64 * ABREAST));
        let mut cut = proxy.cut_at(&[&*first, "COMMIT"], when);
        let fault = async {
            cut.done().await;
            if when == When::Held {
                // what was given up is carried out after all, late
                eventually("a turn that is given up", async || (in_vain.get() > 0).then_some(())).await;
                proxy.resume();
            }
        };
        let posts = join_all(numbers.clone().map(|number| accepted(&api, number, &in_vain)));
        let (answers, ()) = tokio::join!(posts, fault);
        all.extend(numbers.zip(answers));
        agrees(&server, &all, &mut follower).await;
    }
    // without a key the caller alone can find out: it was told that it may have been carried out
    let mut version = 3 * ABREAST;
    for (id, words, when) in [
        ("P-097", &["P-097"][..], When::Asked),
        ("P-098", &["P-098", "COMMIT"], When::Asked),
        ("P-099", &["P-099", "COMMIT"], When::COMMITTED),
    ] {
        let mut cut = proxy.cut_at(words, when);
        let answer = api.post(&proposals(BID), &proposal(id, 1)).await;
        cut.done().await;
        let is_in_doubt = answer.text.contains("it may have been carried out");
        assert_eq!(is_in_doubt, words.contains(&"COMMIT"), "{id}: {}", answer.text);
        assert_eq!(answer.problem(503), "store_unavailable");
        let is_stored = when == When::COMMITTED;
        let stored = ranking(&api, BID, "?limit=200").await;
        assert_eq!(ids(&stored).iter().any(|own| own == id), is_stored, "{id}: {stored}");
        let again = api.post(&proposals(BID), &proposal(id, 1)).await;
        match is_stored {
            true => assert_eq!(again.problem(409), "exists"),
            false => drop(again.expect(201)),
        }
        version += 1;
        let shown = ranking(&api, BID, "?limit=200").await;
        let times = ids(&shown).iter().filter(|own| *own == id).count();
        assert_eq!((times, shown["version"].as_u64()), (1, Some(version)), "{id}");
    }
}
