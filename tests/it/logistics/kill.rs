//! A node dies amid commands: its clients go on elsewhere, and each command has one effect.

use std::cell::Cell;
use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{assert_ranks, ways};
use crate::bids::{draft, ids, open_bid, proposal, proposals, ranking};
use crate::support::{Api, Follower, Heard, Server, Transport, Way, eventually_counts};

/// Commands of each kind.
const EACH: i64 = 24;
const KINDS: [Kind; 4] = [Kind::Intensity, Kind::Report, Kind::Proposal, Kind::Step];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of one of two fleets.
    Intensity,
    /// Of one of two orders.
    Report,
    /// To one bid.
    Proposal,
    /// A bid is opened, or closed, and then it is the next one's turn.
    Step,
}

impl Kind {
    /// The path and body of its nth command.
    fn command(self, n: i64) -> (String, Value) {
        let (turn, half) = (n % 2, n / 2);
        match self {
            Kind::Intensity => {
                ("/v2/fleet/ei-update".to_owned(), json!({"fleet_id": format!("F-{turn}"), "new_ei": n}))
            }
            Kind::Report => (
                format!("/v2/orders/O-{turn}/status"),
                json!({"new_status": "in_transit", "reason": n.to_string()}),
            ),
            Kind::Proposal => (proposals("RANKED"), proposal(&format!("P-{n:02}"), n * 7 % 5)),
            Kind::Step => (format!("/v2/bids/S-{half}/{}", ["open", "close"][turn as usize]), json!({})),
        }
    }

    /// What its commands are about, each with the version that it has before and after them.
    fn entities(self) -> Vec<(String, i64, i64)> {
        match self {
            Kind::Intensity => (0..2).map(|n| (format!("F-{n}"), 0, EACH / 2)).collect(),
            Kind::Report => (0..2).map(|n| (format!("O-{n}"), 1, EACH / 2 + 1)).collect(),
            Kind::Proposal => vec![("RANKED".to_owned(), 0, EACH)],
            Kind::Step => (0..EACH / 2).map(|n| (format!("S-{n}"), 1, 3)).collect(),
        }
    }

    /// The topics of these, and the path of their stream.
    fn topics(self) -> (String, String) {
        let ids: Vec<_> = self.entities().into_iter().map(|(id, ..)| id).collect();
        let (kind, stream) = match self {
            Kind::Intensity => ("fleet", "ei-updates?fleet_ids="),
            Kind::Report => ("order", "order-updates?order_ids="),
            Kind::Proposal => ("ranking", "proposal-ranking-updates?bid_id="),
            Kind::Step => ("bid", "bid-updates?bid_ids="),
        };
        let topics: Vec<_> = ids.iter().map(|id| format!("{kind}:{id}")).collect();
        (topics.join(","), format!("{stream}{}", ids.join(",")))
    }
}

pub(super) async fn clients_of_a_killed_node_miss_nothing(server: &mut Server, balanced: &Api) {
    let api = server.api();
    for n in 0..2 {
        api.post("/v2/orders", &json!({"order_id": format!("O-{n}"), "shipper": "kim"})).await.expect(201);
    }
    open_bid(&api, &draft("RANKED")).await;
    for n in 0..EACH / 2 {
        api.post("/v2/bids", &draft(&format!("S-{n}"))).await.expect(201);
    }
    let (killed, other) = (listeners(&api.node(1), balanced).await, listeners(&api.node(2), balanced).await);
    let done = Cell::new(0);
    let fault = async {
        // when none of the kinds is over
        eventually_counts("half of the commands of a kind", EACH as u64 / 2, || done.get()).await;
        server.kill_node(0);
        if server.count() == 1 {
            server.start_node(0);
        }
    };
    let commands = join_all(KINDS.map(|kind| carry_out(balanced, kind, &done)));
    let (answers, (), killed, other) = tokio::join!(
        commands,
        fault,
        join_all(killed.into_iter().map(follow)),
        join_all(other.into_iter().map(follow))
    );
    each_had_one_effect(balanced, &answers).await;
    let shown = ranking(balanced, "RANKED", "?limit=200").await;
    for told in killed.iter().chain(&other).filter(|told| told.entities.contains_key("RANKED")) {
        assert_ranks(&told.ranking, &shown);
    }
    let is_alone = server.count() == 1;
    for told in &killed {
        // where the node is back at once, a poller may not have been asking meanwhile
        let may_not_have_asked = is_alone && matches!(told.way, Way::Topics(Transport::Poll, _));
        assert!(told.connections >= 2 || may_not_have_asked, "{:?} was not cut", told.way);
    }
    assert!(is_alone || other.iter().all(|told| told.connections == 1), "the others were not cut");
}

/// Somebody in every way at a node, who comes back by way of the balancer: at the stream of each kind, and at the
/// topics of all of them together.
async fn listeners(node: &Api, balanced: &Api) -> Vec<Follower> {
    let (topics, streams): (Vec<_>, Vec<_>) = KINDS.map(Kind::topics).into_iter().unzip();
    let mut all = ways(&streams[0], &topics.join(","));
    all.extend(streams[1..].iter().map(|stream| Way::Path(format!("/v2/realtime/{stream}"))));
    let mut followers = Vec::new();
    for way in all {
        followers.push(Follower::new(node, &way, None).await.coming_back_to(balanced));
    }
    followers
}

/// Has the commands of a kind carried out one after the other, whoever dies; what they were answered. `done`: how many
/// were, of the kind that is ahead.
async fn carry_out(balanced: &Api, kind: Kind, done: &Cell<u64>) -> Vec<Value> {
    let mut answers = Vec::new();
    for n in 0..EACH {
        let (path, body) = kind.command(n);
        answers.push(balanced.post_until_done(&path, &body, &format!("{kind:?}-{n}")).await);
        done.set(done.get().max(n as u64 + 1));
    }
    answers
}

/// What somebody was told.
struct Told {
    way: Way,
    /// The version of each entity.
    entities: BTreeMap<String, i64>,
    /// The last frame of the ranking.
    ranking: Value,
    connections: usize,
}

impl Told {
    /// Takes an event in, which has to be the next one of its entity.
    fn take(&mut self, Heard { name, data }: Heard) {
        let way = &self.way;
        let is_ranking = name == "proposal_ranking_updated";
        let id = ["fleet_id", "order_id", "bid_id"].iter().find_map(|field| data[field].as_str());
        let last = self.entities.get_mut(id.expect("an id")).expect("it listens to it");
        let version = data["version"].as_i64().expect("a version");
        match (is_ranking, way) {
            (false, _) => assert_eq!(version, *last + 1, "{way:?}: {data}"),
            // one frame may tell of several changes
            (true, Way::Topics(..)) => {
                let from = data["from_version"].as_i64().expect("a version");
                assert!(version > *last && from <= *last, "{way:?} after {last}: {data}");
            }
            // and the stream of rankings may show the present one again when it begins
            (true, Way::Path(_)) => assert!(version >= *last, "{way:?} after {last}: {data}"),
        }
        *last = version;
        if is_ranking {
            self.ranking = data;
        }
    }
}

/// Follows until the last of all that there is to hear: each change of each entity once, and in order.
async fn follow(mut follower: Follower) -> Told {
    let way = follower.way().clone();
    let kinds = KINDS.into_iter().filter(|kind| match &way {
        Way::Topics(..) => true,
        Way::Path(path) => path.ends_with(&kind.topics().1),
    });
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    for (id, first, last) in kinds.flat_map(Kind::entities) {
        before.insert(id.clone(), first);
        after.insert(id, last);
    }
    let mut told = Told { way: way.clone(), entities: before, ranking: Value::Null, connections: 0 };
    while told.entities != after {
        told.take(follower.next().await);
    }
    Told { connections: follower.connections, ..told }
}

/// Every command that was answered has had its effect, once; and is answered the same again.
async fn each_had_one_effect(balanced: &Api, answers: &[Vec<Value>]) {
    for turn in 0..2 {
        let own: Vec<i64> = (0..EACH).filter(|n| n % 2 == turn).rev().collect();
        let history = balanced.get(&format!("/v2/fleets/F-{turn}/history")).await.expect(200);
        let readings = history["readings"].as_array().expect("readings").iter();
        assert_eq!(
            readings.map(|own| own["ei"].as_i64()).collect::<Vec<_>>(),
            own.iter().map(|n| Some(*n)).collect::<Vec<_>>()
        );
        let order = balanced.get(&format!("/v2/orders/O-{turn}")).await.expect(200);
        let reports = order["history"].as_array().expect("a history").iter();
        let reasons: Vec<_> =
            reports.map(|own| own["reason"].as_str().expect("a reason").to_owned()).collect();
        assert_eq!(reasons, own.iter().map(i64::to_string).collect::<Vec<_>>());
    }
    let accepted = &answers[2];
    let mut versions: Vec<_> = accepted.iter().map(|answer| answer["version"].as_i64()).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=EACH).map(Some).collect::<Vec<_>>());
    let mut ranked = ids(&ranking(balanced, "RANKED", "?limit=200").await);
    ranked.sort_unstable();
    assert_eq!(ranked, (0..EACH).map(|n| format!("P-{n:02}")).collect::<Vec<_>>());
    for n in 0..EACH / 2 {
        let bid = balanced.get(&format!("/v2/bids/S-{n}")).await.expect(200);
        assert_eq!((&bid["status"], &bid["version"]), (&json!("closed"), &json!(3)));
    }
    for (kind, answers) in KINDS.into_iter().zip(answers) {
        for (n, answer) in (0..).zip(answers) {
            let (path, body) = kind.command(n);
            let again = balanced.post_until_done(&path, &body, &format!("{kind:?}-{n}")).await;
            assert_eq!(again, *answer, "{kind:?} {n}");
        }
    }
}
