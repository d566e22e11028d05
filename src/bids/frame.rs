use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ranking::{BidRanking, Ranked, Splice};
use super::{Pseudonyms, Score, Terms};
use crate::domain::{Timestamp, Visibility};
use crate::wire::number;

/// Moves that take more than this are left out.
const MOST_MOVES_BYTES: usize = 32 << 10;

/// A ranked proposal, as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RankedProposal {
    /// The proposal, or its pseudonym.
    pub proposal_id: String,
    /// Its carrier, or its pseudonym.
    pub carrier_id: String,
    /// From 1.
    pub rank: usize,
    /// Its rank at `from_version`; null when it was not ranked.
    #[serde(default)]
    pub previous_rank: Option<usize>,
    /// What it is ranked by, lower is better.
    #[schema(value_type = f64)]
    pub score: Box<RawValue>,
    /// What it costs.
    #[schema(value_type = f64)]
    pub price: Box<RawValue>,
    /// gCO2e per tonne-km.
    #[schema(value_type = f64)]
    pub ei: Box<RawValue>,
    /// Hours until it is there.
    #[schema(value_type = f64)]
    pub lead_time_hours: Box<RawValue>,
    /// How its carrier is rated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub rating: Option<Box<RawValue>>,
}

impl RankedProposal {
    /// As the owner sees it.
    pub fn new(ranked: &Ranked<'_>, previous_rank: Option<usize>) -> Self {
        let proposal = ranked.proposal;
        Self::of((&proposal.id, &proposal.carrier), ranked.rank, previous_rank, ranked.score, &proposal.terms)
    }

    fn of(
        (proposal_id, carrier_id): (&str, &str),
        rank: usize,
        previous_rank: Option<usize>,
        score: Score,
        terms: &Terms,
    ) -> Self {
        RankedProposal {
            proposal_id: proposal_id.to_owned(),
            carrier_id: carrier_id.to_owned(),
            rank,
            previous_rank,
            score: number(score),
            price: number(terms.price),
            ei: number(terms.ei),
            lead_time_hours: number(terms.lead_time_hours),
            rating: terms.rating.map(number),
        }
    }

    /// As those see it who may not know whose it is.
    #[must_use]
    pub fn under(mut self, pseudonyms: &Pseudonyms) -> Self {
        self.proposal_id = pseudonyms.proposal(&self.proposal_id);
        self.carrier_id = pseudonyms.carrier(&self.carrier_id);
        self
    }
}

/// What one change did to the list: take out at `from`, then put in at `to`, ranks of that moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Move {
    proposal_id: String,
    from: Option<usize>,
    to: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<RankedProposal>,
}

/// The data of `proposal_ranking_updated`.
#[derive(Debug, Serialize)]
struct Frame<'a> {
    bid_id: &'a str,
    version: i64,
    from_version: i64,
    total: usize,
    ranked_proposals: Vec<RankedProposal>,
    moves: Option<Vec<Move>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
    timestamp: String,
}

/// A change of a ranking, with the proposal as it was then.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it did to the list.
    pub splice: Splice,
    /// Whose.
    pub carrier: std::sync::Arc<str>,
    /// What was offered, and what it was ranked by, if it was.
    pub terms: Terms,
    /// The score, if it was ranked.
    pub score: Option<Score>,
}

/// A change of a ranking as it is published: for those who see everything, and for the others.
#[derive(Debug)]
pub struct Frames {
    /// For the owner and whoever manages bids.
    pub full: String,
    /// For the others, where they see less.
    pub public: Option<String>,
}

impl Frames {
    /// Tells what `steps` have made of the ranking at `from_version`; `most`: rows of the window.
    pub fn new(
        bid_id: &str,
        (ranking, steps): (&BidRanking, &[Step]),
        from_version: i64,
        most: usize,
        (visibility, secret): (Visibility, &str),
        now: Timestamp,
    ) -> Self {
        let before = |id: &str, rank: usize| {
            steps.iter().rev().try_fold(rank, |rank, step| step.splice.undone(id, rank))
        };
        let window = ranking.window(0, most);
        let rows = window.iter().map(|own| RankedProposal::new(own, before(&own.proposal.id, own.rank)));
        let frame = Frame {
            bid_id,
            version: ranking.version(),
            from_version,
            total: ranking.total(),
            ranked_proposals: rows.collect(),
            moves: Some(steps.iter().filter_map(|step| shown(step, ranking, most)).collect()),
            reset: false,
            timestamp: now.to_string(),
        };
        let public = match visibility {
            Visibility::Open => None,
            Visibility::Anonymous => Some(frame.under(&Pseudonyms::new(secret)).written()),
            // nobody who may not see it hears of it; whoever should all the same learns nothing
            Visibility::Sealed => Some(serde_json::json!({"bid_id": bid_id, "sealed": true}).to_string()),
        };
        Frames { full: frame.written(), public }
    }
}

/// A change as it is shown: with its row where the window does not show it, at once or in the end.
fn shown(step: &Step, ranking: &BidRanking, most: usize) -> Option<Move> {
    let Splice { proposal, from, to } = &step.splice;
    if from.is_none() && to.is_none() {
        return None;
    }
    let is_beyond = |to: usize| to > most || ranking.ranked(proposal).is_none_or(|own| own.rank > most);
    let row = to.filter(|to| is_beyond(*to)).and_then(|to| {
        Some(RankedProposal::of((proposal, &step.carrier), to, *from, step.score?, &step.terms))
    });
    Some(Move { proposal_id: proposal.to_string(), from: *from, to: *to, row })
}

impl Frame<'_> {
    fn under(&self, pseudonyms: &Pseudonyms) -> Self {
        let hidden = |row: &RankedProposal| row.clone().under(pseudonyms);
        let moves = self.moves.iter().flatten().map(|own| Move {
            proposal_id: pseudonyms.proposal(&own.proposal_id),
            row: own.row.as_ref().map(hidden),
            ..own.clone()
        });
        Frame {
            ranked_proposals: self.ranked_proposals.iter().map(hidden).collect(),
            moves: self.moves.as_ref().map(|_| moves.collect()),
            timestamp: self.timestamp.clone(),
            ..*self
        }
    }

    fn written(&self) -> String {
        let moves = serde_json::to_string(&self.moves).expect("plain data");
        let text = |frame: &Frame<'_>| serde_json::to_string(frame).expect("plain data");
        match moves.len() > MOST_MOVES_BYTES {
            true => text(&Frame {
                moves: None,
                reset: true,
                ranked_proposals: self.ranked_proposals.clone(),
                timestamp: self.timestamp.clone(),
                ..*self
            }),
            false => text(self),
        }
    }
}
