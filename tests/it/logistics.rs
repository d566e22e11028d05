//! System 1: a freight exchange whose clients are at any node, from its first reading of carbon intensity to the death
//! of a node.

mod kill;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bids::{SECRET, draft, ids, open_bid, proposal, ranking, step, submit, user, user_with, with};
use crate::support::nginx::balanced;
use crate::support::{
    Api, Follower, Heard, Server, ServerOptions, Transport, Way, Ws, eventually, from_now, on_both_backends,
};

on_both_backends! { a_freight_exchange_is_followed_at_every_node_and_over_the_death_of_one }

const NODES: usize = 3;

async fn a_freight_exchange_is_followed_at_every_node_and_over_the_death_of_one() {
    let options = ServerOptions::default().unlimited().env("JWT_SECRET", SECRET);
    let (mut server, balanced, _nginx) = balanced(options).await;
    an_intensity_is_heard_at_every_node_at_once(&server.api()).await;
    // of a bid that is not there yet
    let mut watchers = everywhere(&server.api(), &ways("bid-updates?bid_ids=BID-1", "bid:BID-1")).await;
    a_new_proposal_ranks_all_of_them_anew_for_everybody(&server).await;
    let order = an_award_is_heard_and_makes_an_order(&server, &mut watchers).await;
    the_parties_of_an_order_follow_it(&server, &order).await;
    every_node_tells_the_figures_of_all(&server.api()).await;
    kill::clients_of_a_killed_node_miss_nothing(&mut server, &balanced).await;
}

/// Every way to hear of an entity: its own stream, and its topic over each transport.
fn ways(path: &str, topics: &str) -> Vec<Way> {
    let transports = [Transport::Sse, Transport::WebSocket, Transport::Poll];
    let topics = transports.map(|transport| Way::Topics(transport, topics.to_owned()));
    [Way::Path(format!("/v2/realtime/{path}"))].into_iter().chain(topics).collect()
}

/// Somebody at every node, in each of these ways.
async fn everywhere(api: &Api, ways: &[Way]) -> Vec<Follower> {
    let mut followers = Vec::new();
    for number in 1..=NODES {
        for way in ways {
            followers.push(Follower::new(&api.node(number), way, None).await);
        }
    }
    followers
}

/// What each of them hears next is this.
async fn all_hear(followers: &mut [Follower], name: &str, data: &Value) {
    for follower in followers {
        let heard = follower.next().await;
        assert_eq!((heard.name.as_str(), &heard.data), (name, data), "{:?}", follower.way());
    }
}

async fn an_intensity_is_heard_at_every_node_at_once(api: &Api) {
    let ways = ways("ei-updates?fleet_ids=FLT-A01,FLT-B02", "fleet:FLT-A01,fleet:FLT-B02");
    let mut watchers = everywhere(api, &ways).await;
    for number in 1..=NODES {
        for (fleet, ei) in [("FLT-A01", 72.5), ("FLT-B02", 40.0)] {
            let told = api.node(number).update_ei(fleet, ei + number as f64).await;
            assert_eq!(told["version"], number);
            all_hear(&mut watchers, "ei_updated", &told).await;
        }
    }
    drop(watchers);
    // From before the POST to node A is sent until the event is read from the stream that node B has open. What a busy
    // machine adds is not the way's own: so the least of twenty counts.
    let (a, mut at_b) = (api.node(1), Follower::new(&api.node(2), &ways[0], None).await);
    let mut least = Duration::MAX;
    for ei in 0..20 {
        let sent = Instant::now();
        let heard = async { (at_b.next().await, sent.elapsed()) };
        let (told, (heard, took)) = tokio::join!(a.update_ei("FLT-A01", f64::from(ei)), heard);
        assert_eq!(heard.data, told);
        least = least.min(took);
    }
    assert!(least < Duration::from_millis(100), "{least:?}");
}

/// A user who speaks for the carrier `CJ`.
fn carrier(server: &Server) -> Api {
    user_with(server, json!({"sub": "lee", "roles": ["carrier"], "carriers": ["CJ"], "exp": from_now(600)}))
}

async fn a_new_proposal_ranks_all_of_them_anew_for_everybody(server: &Server) {
    let (api, owner) = (server.api(), user(server, "kim", &["shipper"]));
    open_bid(&owner.node(1), &draft("BID-1")).await;
    let ways = ways("proposal-ranking-updates?bid_id=BID-1", "ranking:BID-1");
    let mut watchers = everywhere(&api, &ways).await;
    for (number, (id, price)) in [("P-1", 30), ("P-2", 20), ("P-3", 40), ("P-4", 25)].into_iter().enumerate()
    {
        let answer = submit(&api.node(number + 1), "BID-1", &proposal(id, price)).await;
        all_rank(&api, &mut watchers, &answer).await;
    }
    let before = ranking(&api, "BID-1", "").await;
    assert_eq!(ids(&before), ["P-2", "P-4", "P-1", "P-3"]);
    // a command over a WebSocket is one like any other
    let credentials = carrier(server).credentials();
    let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut ws = Ws::try_open(api.node(3).address(), "/v2/realtime/ws", &headers).await.expect("open");
    ws.ready().await;
    let data = with(proposal("P-5", 10), json!({"bid_id": "BID-1", "carrier_id": "CJ"}));
    let answer = ws.done("command", json!({"name": "submit_proposal", "data": data})).await;
    let shown = all_rank(&api, &mut watchers, &answer).await;
    assert_eq!(ids(&shown), ["P-5", "P-2", "P-4", "P-1", "P-3"]);
    for (own, former) in rows(&shown)[1..].iter().zip(rows(&before)) {
        let rank = |row: &Value| row["rank"].as_u64().expect("a rank");
        assert_eq!(rank(own), rank(&former) + 1, "each has moved");
    }
}

fn rows(ranking: &Value) -> Vec<Value> {
    ranking["ranked_proposals"].as_array().expect("rows").clone()
}

/// After an accepted change every watcher has the ranking that any node shows.
async fn all_rank(api: &Api, watchers: &mut [Follower], answer: &Value) -> Value {
    let shown = ranking(api, "BID-1", "").await;
    assert_eq!(shown["version"], answer["version"]);
    for watcher in watchers {
        let frame = ranked_at(watcher, answer["version"].as_i64().expect("a version")).await;
        assert_ranks(&frame, &shown);
    }
    shown
}

/// The frame by which somebody hears of this version of a ranking.
async fn ranked_at(watcher: &mut Follower, version: i64) -> Value {
    loop {
        let Heard { name, data } = watcher.next().await;
        assert_eq!(name, "proposal_ranking_updated");
        if data["version"].as_i64().expect("a version") >= version {
            return data;
        }
    }
}

/// A frame shows what a ranking is.
fn assert_ranks(frame: &Value, shown: &Value) {
    assert_eq!((&frame["version"], &frame["total"]), (&shown["version"], &shown["total"]));
    let fields = ["proposal_id", "carrier_id", "rank", "score", "price", "ei", "lead_time_hours"];
    let of = |row: &Value| fields.map(|field| row[field].clone());
    let all = |ranking: &Value| rows(ranking).iter().map(of).collect::<Vec<_>>();
    assert_eq!(all(frame), all(shown));
}

/// The order's id.
async fn an_award_is_heard_and_makes_an_order(server: &Server, watchers: &mut [Follower]) -> String {
    let owner = user(server, "kim", &["shipper"]);
    step(&owner.node(2), "BID-1", "close").await;
    let award = json!({"proposal_id": "P-5"});
    let awarded = owner.node(3).post("/v2/bids/BID-1/award", &award).await.expect(200);
    for watcher in watchers {
        let steps = ["draft", "open", "closed", "awarded"];
        for (version, pair) in (2..).zip(steps.windows(2)) {
            let Heard { name, data } = watcher.next().await;
            let told = (name.as_str(), &data["old_status"], &data["new_status"], &data["version"]);
            let expected = ("bid_status_changed", &json!(pair[0]), &json!(pair[1]), &json!(version));
            assert_eq!(told, expected, "{:?}", watcher.way());
            assert_eq!(data["awarded_proposal_id"] == "P-5", pair[1] == "awarded", "{data}");
        }
    }
    let order = awarded["order_id"].as_str().expect("an order").to_owned();
    let found = owner.node(1).get(&format!("/v2/orders/{order}")).await.expect(200);
    let parties = (&found["shipper"], &found["carrier"], &found["bid_id"]);
    assert_eq!(parties, (&json!("kim"), &json!("CJ"), &json!("BID-1")));
    order
}

async fn the_parties_of_an_order_follow_it(server: &Server, order: &str) {
    let (path, topic) = (format!("order-updates?order_ids={order}"), format!("order:{order}"));
    let (ways, lee) = (ways(&path, &topic), carrier(server));
    let stranger = user(server, "park", &["shipper", "carrier"]).node(1);
    let refused = stranger.get(&format!("/v2/realtime/{path}")).await;
    assert_eq!(refused.problem(403), "forbidden_topics");
    let mut parties = Vec::new();
    for own in [&user(server, "kim", &["shipper"]), &lee, &user(server, "dee", &["dispatcher"])] {
        parties.extend(everywhere(own, &ways).await);
    }
    for (number, status) in (1..).zip(["assigned", "picked_up", "in_transit", "delivered"]) {
        let place = json!({"lat": 33.25, "lng": 126.5, "note": format!("mark {number} \"제주\"")});
        let report = json!({"new_status": status, "tracking_event": place});
        let told = lee.node(number).post(&format!("/v2/orders/{order}/status"), &report).await.expect(200);
        assert_eq!((&told["new_status"], &told["tracking_event"]["note"]), (&json!(status), &place["note"]));
        all_hear(&mut parties, "order_status_changed", &told).await;
    }
}

async fn every_node_tells_the_figures_of_all(api: &Api) {
    let mut streams = Vec::new();
    for number in 1..=NODES {
        let mut stream = api.node(number).listen("topic:a", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    for number in 1..=NODES {
        let figures = eventually("figures of all nodes", async || {
            let figures = api.node(number).get("/v2/realtime/metrics").await.expect(200);
            (figures["activeConnections"].as_u64()? >= NODES as u64).then_some(figures)
        })
        .await;
        assert!(figures["totalMessagesPublished"].as_u64().is_some_and(|count| count > 0), "{figures}");
        for name in ["messagesPerSecond", "averageMessageLatency", "errorRate"] {
            assert!(figures[name].as_f64().is_some_and(|figure| figure >= 0.0), "{figures}");
        }
        assert_eq!(figures.as_object().map(serde_json::Map::len), Some(5), "{figures}");
    }
}
