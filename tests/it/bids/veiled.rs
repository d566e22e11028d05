//! Bids whose carriers others may not know: what they can ask, and what they cannot find out by asking.

use serde_json::json;

use super::{draft, ids, offer, open_bid, proposal, proposals, ranking, server, step, submit, user, with};
use crate::support::on_both_backends;

on_both_backends! {
    a_ranking_is_to_be_had_around_a_pseudonym,
    ids_of_proposals_that_others_may_not_see_cannot_be_guessed,
    nothing_is_loaded_for_whoever_may_not_see_it,
}

const ONE: &str = "0f1e2d3c-0000-4000-8000-000000000001";

async fn a_ranking_is_to_be_had_around_a_pseudonym() {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
    open_bid(&owner, &with(draft("B"), json!({"visibility": "anonymous"}))).await;
    let mut pseudonyms = Vec::new();
    for number in 0..5 {
        let own = with(offer(number), json!({"carrier_id": format!("carrier-{number}")}));
        pseudonyms.push(submit(&api, "B", &own).await["pseudonym"].clone());
    }
    let shown: Vec<&str> = pseudonyms.iter().map(|own| own["proposal_id"].as_str().expect("an id")).collect();
    let stranger = user(&server, "kim", &[]);
    for (place, pseudonym) in shown.iter().enumerate().skip(1).take(3) {
        let around = ranking(&stranger, "B", &format!("?around={pseudonym}&limit=3")).await;
        assert_eq!(ids(&around), shown[place - 1..=place + 1]);
    }
    // no proposal's, and no longer a ranked one's
    let worse = with(offer(9), json!({"carrier_id": "carrier-5"}));
    let gone = submit(&api, "B", &worse).await;
    super::withdraw(&api, "B", gone["proposal_id"].as_str().expect("an id")).await;
    let gone = gone["pseudonym"]["proposal_id"].as_str().expect("an id");
    let carrier = pseudonyms[0]["carrier_id"].as_str().expect("an id");
    for other in ["p-0123456789abcdef", carrier, gone] {
        let answer = stranger.get(&format!("/v2/bids/B/ranking?around={other}")).await;
        assert_eq!(answer.problem(404), "no_such_proposal", "{other}");
    }
    // who sees proposals asks by their own names
    let answer = owner.get(&format!("/v2/bids/B/ranking?around={}", shown[0])).await;
    assert_eq!(answer.problem(404), "no_such_proposal");
}

async fn ids_of_proposals_that_others_may_not_see_cannot_be_guessed() {
    let server = server();
    let owner = user(&server, "owner-1", &["shipper"]);
    let (one, two) = (user(&server, "one", &["carrier"]), user(&server, "two", &["carrier"]));
    let of = |id: &str, carrier: &str| with(proposal(id, 10), json!({"carrier_id": carrier}));
    for (bid, visibility) in [("A", "anonymous"), ("S", "sealed")] {
        open_bid(&owner, &with(draft(bid), json!({"visibility": visibility}))).await;
        submit(&one, bid, &of(ONE, "one")).await;
        // taken or not, it is the same
        let mut told = Vec::new();
        for id in ["one", "one-1", "P-1"] {
            let answer = two.post(&proposals(bid), &of(id, "two")).await;
            told.push(answer.json()["errors"].clone());
            assert_eq!(answer.problem(422), "invalid_field", "{id}");
            let answer = one.post(&proposals(bid), &of(id, "one")).await;
            assert_eq!(answer.problem(422), "invalid_field", "{id}: its own, too");
        }
        assert_eq!(told[0][0]["field"], "proposal_id");
        assert!(told.iter().all(|own| *own == told[0]), "{told:?}");
        let made = with(offer(20), json!({"carrier_id": "two"}));
        let own = submit(&two, bid, &made).await;
        let shown = ids(&ranking(&owner, bid, "").await);
        assert_eq!(shown, [ONE, own["proposal_id"].as_str().expect("an id")]);
        step(&owner, bid, "close").await;
        owner.post(&format!("/v2/bids/{bid}/award"), &json!({"proposal_id": ONE})).await.expect(200);
    }
}

async fn nothing_is_loaded_for_whoever_may_not_see_it() {
    let server = server();
    let owner = user(&server, "owner-1", &["shipper"]);
    open_bid(&owner, &with(draft("B"), json!({"visibility": "sealed"}))).await;
    let held = async || {
        let mut sum = 0.0;
        for node in 0..server.count() {
            sum += server.operator().at(node).metric("bongsu_ranking_actors").await;
        }
        sum
    };
    let stranger = user(&server, "kim", &["carrier"]);
    for query in ["", "?around=P-1", "?offset=1"] {
        assert_eq!(stranger.get(&format!("/v2/bids/B/ranking{query}")).await.problem(403), "sealed");
    }
    assert_eq!(held().await, 0.0);
    ranking(&owner, "B", "").await;
    assert_eq!(held().await, 1.0, "and it is for whoever may");
}
