//! What a viewer may not see never reaches it, on any way.

use serde_json::{Value, json};

use super::ears::Ears;
use super::{
    draft, offer, open_bid, proposal, proposals, ranking, revise, server, step, submit, user, user_with,
    with, withdraw,
};
use crate::support::{Api, Dice, Server, Ws, from_now, on_both_backends};

on_both_backends! {
    carriers_of_an_anonymous_bid_have_the_same_pseudonyms_everywhere,
    of_a_sealed_bid_others_learn_nothing,
    whatever_carriers_do_others_do_not_learn_who_they_are,
}

// where others may not see them, ids are UUIDs
const ONE: &str = "0f1e2d3c-0000-4000-8000-000000000001";
const TWO: &str = "0f1e2d3c-0000-4000-8000-000000000002";
const THREE: &str = "0f1e2d3c-0000-4000-8000-000000000003";
const NONE: &str = "0f1e2d3c-0000-4000-8000-000000000007";

/// A proposal of the carrier of this number.
fn proposal_of(number: usize, price: u64) -> Value {
    let id = [ONE, TWO, THREE][number - 1];
    with(proposal(id, price), json!({"carrier_id": format!("carrier-P-{number}")}))
}

/// The price that each of these bids comes to in the end.
const LAST: f64 = 5.25;
/// How a ranking tells of it.
const LAST_TOLD: &str = "\"price\":5.25";

/// Everything that somebody was told, as text.
#[derive(Default)]
struct Told(String);

impl Told {
    fn hear(&mut self, own: impl std::fmt::Display) {
        self.0 += &own.to_string();
        self.0.push('\n');
    }

    /// What came by each way, which is this among others.
    fn hear_all(&mut self, heard: Vec<(String, String)>, something: &str) {
        for (way, own) in heard {
            assert!(own.contains(something), "{way}: no {something} in {own}");
            self.hear(own);
        }
    }

    fn knows_nothing_of(&self, words: &[&str]) {
        for word in words {
            assert!(!self.0.contains(word), "{word} in {}", self.0);
        }
    }
}

/// A user who speaks for the first carrier.
fn for_the_first(server: &Server) -> Api {
    let claims =
        json!({"sub": "kim", "roles": ["carrier"], "carriers": ["carrier-P-1"], "exp": from_now(600)});
    user_with(server, claims)
}

/// What somebody is answered who asks for what is not its own: over HTTP and over a WebSocket.
///
/// What somebody else's proposal is answered, one that is not there is, too.
async fn pry(api: &Api, told: &mut Told, (status, code): (u16, &str)) {
    for id in [TWO, NONE] {
        let own = format!("{}/{id}", proposals("B"));
        for answer in [api.delete(&own).await, api.call("PUT", &own, &offer(1)).await] {
            told.hear(&answer.text);
            assert_eq!(answer.problem(status), code);
        }
    }
    let credentials = api.credentials();
    let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut ws = Ws::try_open(api.address(), "/v2/realtime/ws", &headers).await.expect("open");
    ws.ready().await;
    let (gone, revised) = (json!({"bid_id": "B", "proposal_id": TWO}), offer(1));
    for (name, data) in [
        ("withdraw_proposal", gone.clone()),
        ("revise_proposal", with(revised, gone)),
        ("award_bid", json!({"bid_id": "B", "proposal_id": TWO})),
    ] {
        let reply = ws.ask("command", json!({"name": name, "data": data})).await;
        assert_eq!(reply["ok"], false, "{reply}");
        told.hear(&reply);
    }
    for path in ["/v2/bids", "/v2/bids/B", "/v2/orders"] {
        told.hear(api.get(path).await.expect(200));
    }
}

/// A bid with two carriers and a few changes, up to its award.
async fn played(server: &Server, bid: &str, visibility: &str) -> (Value, Value) {
    let (api, owner) = (server.api(), user(server, "owner-1", &["shipper"]));
    open_bid(&owner, &with(draft(bid), json!({"visibility": visibility}))).await;
    let one = submit(&user(server, "carrier-P-1", &["carrier"]), bid, &proposal_of(1, 10)).await;
    let two = submit(&user(server, "carrier-P-2", &["carrier"]), bid, &proposal_of(2, 20)).await;
    submit(&api, bid, &proposal_of(3, 15)).await;
    withdraw(&api, bid, THREE).await;
    revise(&api, bid, TWO, &offer(LAST)).await;
    (one, two)
}

/// Closes the bid, and awards it to the second.
async fn award(owner: &Api) {
    step(owner, "B", "close").await;
    owner.post("/v2/bids/B/award", &json!({"proposal_id": TWO})).await.expect(200);
}

async fn carriers_of_an_anonymous_bid_have_the_same_pseudonyms_everywhere() {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
    let watcher = for_the_first(&server);
    let since = api.publish("topic:a", "note", json!(0)).await;
    let live = Ears::open(&watcher, "bid:B,ranking:B", "", (None, LAST_TOLD)).await;
    let (one, two) = played(&server, "B", "anonymous").await;
    let mut told = Told::default();
    // itself it knows
    let own = &one["pseudonym"];
    assert_eq!((&one["proposal_id"], &one["carrier_id"]), (&json!(ONE), &json!("carrier-P-1")));
    let shown = ranking(&watcher, "B", "").await;
    told.hear(&shown);
    let rows = shown["ranked_proposals"].as_array().expect("rows");
    let names = |row: &Value| (row["proposal_id"].clone(), row["carrier_id"].clone(), row["price"].clone());
    let pseudonym =
        |own: &Value, price: Value| (own["proposal_id"].clone(), own["carrier_id"].clone(), price);
    assert_eq!(
        rows.iter().map(names).collect::<Vec<_>>(),
        [pseudonym(&two["pseudonym"], json!(LAST)), pseudonym(own, json!(10))]
    );
    let around = ranking(&watcher, "B", &format!("?around={ONE}&limit=1")).await;
    assert_eq!(
        names(&around["ranked_proposals"][0]),
        pseudonym(own, json!(10)),
        "its own place by its own name"
    );
    told.hear(&around);
    let others = watcher.get(&format!("/v2/bids/B/ranking?around={TWO}")).await;
    told.hear(&others.text);
    assert_eq!(others.problem(404), "no_such_proposal");
    pry(&watcher, &mut told, (404, "no_such_proposal")).await;
    award(&owner).await;
    let seen = watcher.get("/v2/bids/B").await.expect(200);
    assert_eq!(seen["awarded_proposal_id"], two["pseudonym"]["proposal_id"]);
    pry(&watcher, &mut told, (409, "bid_not_open")).await;
    told.hear(ranking(&watcher, "B", "").await);
    let late = Ears::open(&watcher, "bid:B,ranking:B", "", (Some(&since), LAST_TOLD)).await;
    let winner = two["pseudonym"]["proposal_id"].as_str().expect("an id");
    for ears in [live, late] {
        told.hear_all(ears.heard().await, winner);
    }
    assert!(told.0.contains(own["carrier_id"].as_str().expect("an id")));
    told.knows_nothing_of(&[ONE, TWO, THREE, "carrier-P"]);
    // the owner sees who it is, and so does a service that manages
    for api in [&owner, &api] {
        let shown = ranking(api, "B", "").await;
        assert_eq!(super::ids(&shown), [TWO, ONE]);
        assert_eq!(api.get("/v2/bids/B").await.expect(200)["awarded_proposal_id"], TWO);
    }
}

async fn of_a_sealed_bid_others_learn_nothing() {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
    let watcher = for_the_first(&server);
    let since = api.publish("topic:a", "note", json!(0)).await;
    // of a bid that is not there yet anybody may ask for the ranking; that it is sealed is known before it is told of
    let live = Ears::open(&watcher, "bid:B", ",ranking:B", (None, LAST_TOLD)).await;
    let (one, _) = played(&server, "B", "sealed").await;
    assert_eq!((&one["rank"], &one["total"]), (&json!(1), &json!(1)), "how its own proposal stands");
    let mut told = Told::default();
    let around = [ONE, TWO].map(|id| format!("?around={id}"));
    for query in ["", &around[0], &around[1], "?offset=1"] {
        let answer = watcher.get(&format!("/v2/bids/B/ranking{query}")).await;
        told.hear(&answer.text);
        assert_eq!(answer.problem(403), "sealed");
    }
    pry(&watcher, &mut told, (404, "no_such_proposal")).await;
    award(&owner).await;
    let seen = watcher.get("/v2/bids/B").await.expect(200);
    assert_eq!((&seen["awarded_proposal_id"], &seen["ranking_version"]), (&Value::Null, &Value::Null));
    pry(&watcher, &mut told, (409, "bid_not_open")).await;
    for path in [
        "stream?topics=ranking:B",
        "stream?topics=bid:B,ranking:B",
        "proposal-ranking-updates?bid_id=B",
        "poll?topics=ranking:B&wait=0",
        "poll?topics=bid:B,ranking:B&wait=0",
    ] {
        let answer = watcher.get(&format!("/v2/realtime/{path}")).await;
        told.hear(&answer.text);
        assert_eq!(answer.problem(403), "forbidden_topics");
    }
    let late = Ears::open(&watcher, "bid:B", ",ranking:B", (Some(&since), LAST_TOLD)).await;
    for ears in [live, late] {
        told.hear_all(ears.heard().await, "\"new_status\":\"closed\"");
    }
    told.knows_nothing_of(&[ONE, TWO, THREE, "carrier-P", LAST_TOLD, "\"price\":10"]);
    assert_eq!(super::ids(&ranking(&owner, "B", "").await), [TWO, ONE]);
    let of_the_owner = Ears::open(&owner, "bid:B,ranking:B", "", (Some(&since), LAST_TOLD)).await;
    let mut heard = Told::default();
    heard.hear_all(of_the_owner.heard().await, TWO);
    assert!(heard.0.contains("carrier-P-1") && heard.0.contains("proposal_ranking_updated"), "{}", heard.0);
}

async fn whatever_carriers_do_others_do_not_learn_who_they_are() {
    // what all their ids begin with
    const KIN: &str = "0f1e2d3c-0000-4000-8000-00000000";
    for (seed, visibility) in [(1, "anonymous"), (2, "sealed")] {
        let server = server();
        let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
        let watcher = for_the_first(&server);
        let since = api.publish("topic:a", "note", json!(0)).await;
        let (topics, refused) = match visibility {
            "anonymous" => ("bid:B,ranking:B", ""),
            _ => ("bid:B", ",ranking:B"),
        };
        let live = Ears::open(&watcher, topics, refused, (None, LAST_TOLD)).await;
        open_bid(&owner, &with(draft("B"), json!({"visibility": visibility, "max_ei": 80}))).await;
        let (mut dice, mut told) = (Dice::new(seed), Told::default());
        for _ in 0..60 {
            let id = format!("{KIN}{:04}", dice.roll(12));
            let (path, terms) = (
                format!("{}/{id}", proposals("B")),
                with(offer(1 + dice.roll(90)), json!({"ei": dice.roll(90)})),
            );
            // what makes no sense at this moment is refused, and that is heard by the one who asks
            match dice.roll(5) {
                0 => drop(api.delete(&path).await),
                1 => drop(api.call("PUT", &path, &terms).await),
                _ => drop(api.post(&proposals("B"), &with(proposal(&id, 1), terms)).await),
            }
            told.hear(watcher.get(&format!("/v2/bids/B/ranking?around={id}")).await.text);
        }
        let winner = format!("{KIN}2000");
        submit(&api, "B", &proposal(&winner, LAST)).await;
        step(&owner, "B", "close").await;
        owner.post("/v2/bids/B/award", &json!({"proposal_id": winner})).await.expect(200);
        let late = Ears::open(&watcher, topics, refused, (Some(&since), LAST_TOLD)).await;
        for ears in [live, late] {
            told.hear_all(ears.heard().await, "");
        }
        told.knows_nothing_of(&[KIN, "carrier-"]);
        if visibility == "sealed" {
            told.knows_nothing_of(&["\"price\"", "\"score\"", "\"ranked_proposals\""]);
        }
    }
}
