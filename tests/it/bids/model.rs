//! Random changes from every node at once, against a list that is simply sorted.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::watcher::Watcher;
use super::{SECRET, draft, offer, open_bid, proposal, proposals, ranking, step, with};
use crate::support::{Answer, Api, Client, Server, ServerOptions, Transport, on_both_backends};

const PROPOSALS: u64 = 24;

on_both_backends! {
    ranks_are_what_sorting_gives_whoever_is_asked,
    changes_while_actors_come_and_go_are_answered_once,
}

/// A generator that is the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Submit(u64),
    Revise(u64),
    Withdraw,
}

/// What a proposal is, as far as its answers tell.
#[derive(Clone, Debug)]
struct Own {
    price: u64,
    version: i64,
    withdrawn: bool,
}

#[derive(Default)]
struct Model {
    version: i64,
    own: BTreeMap<String, Own>,
}

impl Model {
    fn ranked(&self) -> Vec<String> {
        let mut all: Vec<_> = self.own.iter().filter(|(_, own)| !own.withdrawn && own.price < 90).collect();
        all.sort_by_key(|(id, own)| (own.price, own.version, (*id).clone()));
        all.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// The code that a change is refused with, if it has to be.
    fn refusal(&self, id: &str, ask: &Ask) -> Option<&'static str> {
        match (ask, self.own.get(id)) {
            (Ask::Submit(_), Some(_)) => Some("exists"),
            (Ask::Revise(_) | Ask::Withdraw, None) => Some("no_such_proposal"),
            (Ask::Revise(_) | Ask::Withdraw, Some(own)) if own.withdrawn => Some("withdrawn"),
            _ => None,
        }
    }

    /// Takes an accepted change in, and checks what it was answered.
    fn accept(&mut self, id: &str, ask: &Ask, answer: &Value) {
        let before = self.ranked();
        self.version += 1;
        assert_eq!(answer["version"], self.version, "versions are dense");
        let price = match ask {
            Ask::Submit(price) | Ask::Revise(price) => *price,
            Ask::Withdraw => self.own[id].price,
        };
        let withdrawn = matches!(ask, Ask::Withdraw);
        self.own.insert(id.to_owned(), Own { price, version: self.version, withdrawn });
        let after = self.ranked();
        let rank = |list: &[String]| list.iter().position(|own| own == id).map(|place| place + 1);
        let told = |name: &str| answer[name].as_u64().map(|rank| rank as usize);
        assert_eq!((told("rank"), told("previous_rank")), (rank(&after), rank(&before)), "{id} {ask:?}");
        assert_eq!(answer["total"], after.len());
        assert_eq!(
            answer["status"],
            match (withdrawn, price < 90) {
                (true, _) => "withdrawn",
                (false, true) => "ranked",
                (false, false) => "disqualified",
            }
        );
    }
}

async fn ask(api: &Api, bid: &str, id: &str, ask: &Ask) -> Answer {
    // intensity follows the price: from 90 on it is above the maximum
    let terms = |price: u64| with(offer(price), json!({"ei": price}));
    let path = format!("{}/{id}", proposals(bid));
    match ask {
        Ask::Submit(price) => api.post(&proposals(bid), &with(proposal(id, *price), terms(*price))).await,
        Ask::Revise(price) => api.call("PUT", &path, &terms(*price)).await,
        Ask::Withdraw => api.delete(&path).await,
    }
}

fn server(options: ServerOptions) -> Server {
    Server::with(options.nodes(3).env("JWT_SECRET", SECRET).unlimited())
}

async fn ranks_are_what_sorting_gives_whoever_is_asked() {
    let server = server(ServerOptions::default().set("ranking.window", 5));
    let nodes = server.api().everywhere();
    let bid = open_bid(&nodes[0], &with(draft("B"), json!({"max_ei": 89.9}))).await;
    let mut watchers: Vec<(Client, Watcher)> = Vec::new();
    for api in &nodes {
        for transport in [Transport::Sse, Transport::WebSocket, Transport::Poll] {
            let (client, _) = Client::over(transport, api, "ranking:B", None).await;
            watchers.push((client, Watcher::default()));
        }
    }
    let (mut dice, mut model) = (Dice(0x0b0_9545), Model::default());
    for round in 0..60 {
        // proposals that do not meet, so that only their order is open
        let picked: BTreeSet<u64> = (0..=dice.below(4)).map(|_| dice.below(PROPOSALS)).collect();
        let asked: Vec<(String, Ask)> = picked
            .into_iter()
            .map(|number| {
                let price = dice.below(100);
                let kind = match dice.below(6) {
                    0 => Ask::Withdraw,
                    1 | 2 => Ask::Revise(price),
                    _ => Ask::Submit(price),
                };
                (format!("P-{number:02}"), kind)
            })
            .collect();
        let answers =
            asked.iter().enumerate().map(|(at, (id, own))| ask(&nodes[at % nodes.len()], &bid, id, own));
        let answers = join_all(answers).await;
        let mut accepted = Vec::new();
        for ((id, own), answer) in asked.iter().zip(answers) {
            match model.refusal(id, own) {
                Some(code) => {
                    let status = if code == "no_such_proposal" { 404 } else { 409 };
                    assert_eq!(answer.problem(status), code, "{id} {own:?}");
                }
                None => {
                    assert!(matches!(answer.status, 200 | 201), "{id} {own:?}: {}", answer.text);
                    accepted.push((answer.json(), id, own));
                }
            }
        }
        accepted.sort_by_key(|(answer, ..)| answer["version"].as_i64());
        for (answer, id, own) in &accepted {
            model.accept(id, own, answer);
        }
        for (client, watcher) in &mut watchers {
            while watcher.version() < model.version {
                watcher.take(&client.event().await.data);
            }
        }
        agrees(&nodes[round % nodes.len()], &bid, &model, &watchers, &mut dice).await;
    }
    step(&nodes[nodes.len() / 2], &bid, "close").await;
    for api in &nodes {
        let late = ask(api, &bid, "P-99", &Ask::Submit(1)).await;
        assert_eq!(late.problem(409), "bid_not_open");
    }
    let best = model.ranked()[0].clone();
    let awarded =
        nodes[nodes.len() - 1].post("/v2/bids/B/award", &json!({"proposal_id": best})).await.expect(200);
    assert_eq!(awarded["awarded_proposal_id"], best);
    for api in &nodes {
        assert_eq!(ranking(api, &bid, "").await["version"], model.version);
    }
}

/// The node and every watcher have the list of the model.
async fn agrees(api: &Api, bid: &str, model: &Model, watchers: &[(Client, Watcher)], dice: &mut Dice) {
    let list = model.ranked();
    let all = ranking(api, bid, "?limit=200").await;
    assert_eq!((super::ids(&all), &all["version"]), (list.clone(), &json!(model.version)));
    for (at, (_, watcher)) in watchers.iter().enumerate() {
        let rows: Vec<Value> = watcher.rows();
        let own: Vec<_> =
            rows.iter().map(|row| row["proposal_id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(own, list, "watcher {at}");
        for row in &rows {
            let id = row["proposal_id"].as_str().expect("an id");
            assert_eq!(row["price"], model.own[id].price, "watcher {at}: {row}");
            assert_eq!(row["carrier_id"], format!("carrier-{id}"), "watcher {at}: {row}");
        }
    }
    if !list.is_empty() {
        let place = dice.below(list.len() as u64) as usize;
        let around = ranking(api, bid, &format!("?around={}&limit=5", list[place])).await;
        let from = place.saturating_sub(2);
        assert_eq!(super::ids(&around), list[from..(from + 5).min(list.len())]);
        let part = ranking(api, bid, &format!("?offset={place}&limit=3")).await;
        assert_eq!(super::ids(&part), list[place..(place + 3).min(list.len())]);
    }
}

async fn changes_while_actors_come_and_go_are_answered_once() {
    let server = server(ServerOptions::default().set("ranking.idle_ms", 1));
    let bids = ["B-0", "B-1", "B-2"];
    for bid in bids {
        open_bid(&server.api(), &draft(bid)).await;
    }
    let posts = (0..240_u64).map(|number| {
        let (api, bid) = (server.api(), bids[number as usize % bids.len()]);
        async move {
            // in waves, so that there are pauses for actors to go
            crate::support::pause(std::time::Duration::from_millis(number / 12 * 15)).await;
            let id = format!("P-{number}");
            let answer = ask(&api, bid, &id, &Ask::Submit(number % 80)).await;
            let told = ranking(&api, bid, &format!("?around={id}&limit=1")).await;
            assert_eq!(super::ids(&told), [id]);
            (bid, answer.expect(201)["version"].as_i64().expect("a version"))
        }
    });
    let mut versions: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (bid, version) in join_all(posts).await {
        versions.entry(bid).or_default().push(version);
    }
    for (bid, mut own) in versions {
        own.sort_unstable();
        assert_eq!(own, (1..=80).collect::<Vec<_>>(), "{bid}: each was accepted once");
        assert_eq!(ranking(&server.api(), bid, "?limit=200").await["total"], 80);
    }
}
