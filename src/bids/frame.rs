use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ranking::{BidRanking, Ranked, Splice, rank_before};
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
pub struct Move {
    /// Which proposal.
    pub proposal_id: String,
    /// Where it was, if it was ranked.
    pub from: Option<usize>,
    /// Where it is, if it is ranked.
    pub to: Option<usize>,
    /// The proposal, where the window does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<RankedProposal>,
}

/// The data of `proposal_ranking_updated`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// The bid.
    pub bid_id: String,
    /// The ranking's version that this tells.
    pub version: i64,
    /// The one that it tells the difference to.
    pub from_version: i64,
    /// How many proposals are ranked.
    pub total: usize,
    /// The best of them, or all.
    pub ranked_proposals: Vec<RankedProposal>,
    /// What has changed, in order; None: too much, or it is not known.
    pub moves: Option<Vec<Move>>,
    /// Whether there were too many moves to tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// Of a list that is to be whole: whether it is not, as the ranking is too long for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// When this was told, RFC 3339.
    pub timestamp: String,
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
        seen: (Visibility, &str),
        now: Timestamp,
    ) -> Self {
        let before = |id: &str, rank: usize| {
            let undo = |rank, step: &Step| step.splice.undone(id, rank);
            steps.iter().rev().fold(Some(rank), undo)
        };
        let window = ranking.window(0, most);
        let rows = window.iter().map(|own| RankedProposal::new(own, before(&own.proposal.id, own.rank)));
        let frame = Frame {
            bid_id: bid_id.to_owned(),
            version: ranking.version(),
            from_version,
            total: ranking.total(),
            ranked_proposals: rows.collect(),
            moves: Some(steps.iter().filter_map(|step| shown(step, ranking, most)).collect()),
            reset: false,
            truncated: None,
            timestamp: now.to_string(),
        };
        Frames::of(frame, seen)
    }

    /// A frame for those who see everything, and what others see of it by the bid's visibility.
    pub fn of(frame: Frame, (visibility, secret): (Visibility, &str)) -> Self {
        let frame = frame.bounded();
        let public = match visibility {
            Visibility::Open => None,
            Visibility::Anonymous => Some(frame.clone().under(&Pseudonyms::new(secret)).bounded().written()),
            // nobody who may not see it hears of it; whoever should all the same learns nothing
            Visibility::Sealed => {
                Some(serde_json::json!({"bid_id": frame.bid_id, "sealed": true}).to_string())
            }
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

impl Frame {
    /// Reads what an event tells.
    pub fn read(data: &str) -> Option<Self> {
        serde_json::from_str(data).ok()
    }

    /// This and what came next, told as one; None where that did not come next.
    pub fn then(mut self, later: Frame) -> Option<Frame> {
        if self.bid_id != later.bid_id || self.version != later.from_version {
            return None;
        }
        let mut rows = later.ranked_proposals;
        for row in &mut rows {
            row.previous_rank = self.rank_before(&row.proposal_id, row.previous_rank);
        }
        let moves = self.moves.take().zip(later.moves).map(|(mut moves, next)| {
            self.spell_out(&mut moves, &rows);
            moves.extend(next);
            moves
        });
        let joined = Frame {
            from_version: self.from_version,
            ranked_proposals: rows,
            reset: moves.is_none(),
            moves,
            bid_id: later.bid_id,
            version: later.version,
            total: later.total,
            truncated: later.truncated,
            timestamp: later.timestamp,
        };
        Some(joined.bounded())
    }

    /// The rank at `from_version` of what has `rank` at `version`; None: it was not ranked, or that is not known.
    pub fn rank_before(&self, id: &str, rank: Option<usize>) -> Option<usize> {
        match &self.moves {
            Some(moves) => moves
                .iter()
                .rev()
                .fold(rank, |rank, own| rank_before(own.proposal_id == id, (own.from, own.to), rank)),
            None => self.ranked_proposals.get(rank?.checked_sub(1)?)?.previous_rank,
        }
    }

    /// What moved into the window and is not in the later one comes with its row from now on.
    fn spell_out(&self, moves: &mut [Move], later: &[RankedProposal]) {
        let find = |rows: &[RankedProposal], id: &str| rows.iter().position(|row| row.proposal_id == id);
        for own in moves.iter_mut().filter(|own| own.row.is_none()) {
            let Some(to) = own.to.filter(|_| find(later, &own.proposal_id).is_none()) else { continue };
            let row = find(&self.ranked_proposals, &own.proposal_id).map(|at| &self.ranked_proposals[at]);
            own.row = row.map(|row| RankedProposal { rank: to, previous_rank: own.from, ..row.clone() });
        }
    }

    /// The same as those see it who may not know whose proposals they are.
    #[must_use]
    pub fn under(mut self, pseudonyms: &Pseudonyms) -> Self {
        let hide = |row: RankedProposal| row.under(pseudonyms);
        for own in self.moves.iter_mut().flatten() {
            own.proposal_id = pseudonyms.proposal(&own.proposal_id);
            own.row = own.row.take().map(hide);
        }
        self.ranked_proposals = self.ranked_proposals.into_iter().map(hide).collect();
        self
    }

    /// Without moves that take too much.
    fn bounded(mut self) -> Self {
        let bytes = |moves: &Vec<Move>| serde_json::to_vec(moves).expect("plain data").len();
        if self.moves.as_ref().is_some_and(|moves| bytes(moves) > MOST_MOVES_BYTES) {
            self.moves = None;
            self.reset = true;
        }
        self
    }

    /// As JSON.
    pub fn written(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}
