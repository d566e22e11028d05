//! The commands on bids, as a WebSocket gives them: the HTTP body, with the ids of the path in it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::capabilities::answer;
use super::{Services, bids, proposals};
use crate::bids::BidStep;
use crate::domain::Refusal;
use crate::identity::Principal;
use crate::sessions::Answer;
use crate::wire::parse;

/// Carries a command out; None: it is none on bids.
pub(super) async fn carry_out(
    services: &Services,
    principal: &Principal,
    (name, body): (&str, &[u8]),
    key: impl Fn(&str) -> Option<(String, String)>,
) -> Option<Answer> {
    let key = key(name);
    let outcome = async {
        match name {
            "create_bid" => answer(&bids::create_bid(services, principal, parse(body)?, key).await?),
            "open_bid" | "close_bid" | "cancel_bid" => {
                let ([id], rest) = addressed(body, ["bid_id"])?;
                parse::<Nothing>(&rest)?;
                let step = match name {
                    "open_bid" => BidStep::Open,
                    "close_bid" => BidStep::Close,
                    _ => BidStep::Cancel,
                };
                answer(&bids::step_bid(services, principal, &id, step, key).await?)
            }
            "award_bid" => {
                let ([id], rest) = addressed(body, ["bid_id"])?;
                answer(&bids::award_bid(services, principal, &id, parse(&rest)?, key).await?)
            }
            "submit_proposal" => {
                let ([id], rest) = addressed(body, ["bid_id"])?;
                answer(&proposals::submit_proposal(services, principal, &id, parse(&rest)?, key).await?)
            }
            "revise_proposal" => {
                let ([id, proposal_id], rest) = addressed(body, ["bid_id", "proposal_id"])?;
                let ids = (id.as_str(), proposal_id.as_str());
                answer(&proposals::revise_proposal(services, principal, ids, &parse(&rest)?, key).await?)
            }
            "withdraw_proposal" => {
                let ([id, proposal_id], rest) = addressed(body, ["bid_id", "proposal_id"])?;
                parse::<Nothing>(&rest)?;
                let ids = (id.as_str(), proposal_id.as_str());
                answer(&proposals::withdraw_proposal(services, principal, ids, key).await?)
            }
            _ => unreachable!("only commands on bids come here"),
        }
    };
    NAMES.contains(&name).then_some(())?;
    Some(outcome.await)
}

const NAMES: [&str; 8] = [
    "create_bid",
    "open_bid",
    "close_bid",
    "cancel_bid",
    "award_bid",
    "submit_proposal",
    "revise_proposal",
    "withdraw_proposal",
];

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Takes the ids of the path out of a command's data; the rest is what HTTP has as its body.
pub(super) fn addressed<const N: usize>(
    body: &[u8],
    names: [&str; N],
) -> Result<([String; N], Vec<u8>), Refusal> {
    let mut fields: BTreeMap<String, Box<RawValue>> = parse(body)?;
    let mut ids = [const { String::new() }; N];
    for (id, name) in ids.iter_mut().zip(names) {
        let raw = fields.remove(name).ok_or_else(|| Refusal::invalid(name, "is missing"))?;
        *id = serde_json::from_str(raw.get()).map_err(|_| Refusal::invalid(name, "must be a string"))?;
    }
    Ok((ids, serde_json::to_vec(&fields).expect("what was read can be written")))
}
