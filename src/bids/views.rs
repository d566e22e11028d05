//! What a viewer gets to see of a bid.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ranking::{BidRanking, Ranked, Speaks, no_such_proposal};
use super::{Bid, Pseudonyms, RankedProposal, Status, WrittenCriterion};
use crate::domain::{Refusal, Visibility};
use crate::wire::number;

/// Somebody who looks at bids.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// Sees everything, whoever owns the bid.
    pub sees_all: bool,
    /// Which user it is, if it is one.
    pub sub: Option<String>,
    /// For which carriers it may speak.
    pub speaks: Speaks,
}

impl Viewer {
    /// Whether it sees everything of this bid.
    pub fn owns(&self, bid: &Bid) -> bool {
        self.sees_all || (self.sub.is_some() && self.sub == bid.owner)
    }
}

/// A bid as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BidView {
    /// Its id.
    pub bid_id: String,
    /// The user who created it; null: a service.
    pub owner: Option<String>,
    /// A line for people.
    pub title: String,
    /// From where.
    #[schema(value_type = Object)]
    pub origin: Box<RawValue>,
    /// Where to.
    #[schema(value_type = Object)]
    pub destination: Box<RawValue>,
    /// What.
    #[schema(value_type = Object)]
    pub cargo: Box<RawValue>,
    /// How proposals are compared.
    pub criteria: Vec<WrittenCriterion>,
    /// `open`, `anonymous` or `sealed`.
    #[schema(value_type = String)]
    pub visibility: Visibility,
    /// Proposals of a higher intensity are not ranked, gCO2e per tonne-km.
    #[schema(value_type = Option<f64>)]
    pub max_ei: Option<Box<RawValue>>,
    /// `draft`, `open`, `closed`, `awarded` or `cancelled`.
    #[schema(value_type = String)]
    pub status: Status,
    /// When it opens by itself, RFC 3339.
    pub opens_at: Option<String>,
    /// When it closes, RFC 3339.
    pub closes_at: Option<String>,
    /// Whether a late change of the best proposal extends it.
    pub anti_sniping: Option<WrittenAntiSniping>,
    /// The proposal that has won, or its pseudonym; null as well for who may not know.
    pub awarded_proposal_id: Option<String>,
    /// The order that this has created; null as well for others than the owner.
    pub order_id: Option<String>,
    /// Counts the changes of its status.
    pub version: i64,
    /// Counts the changes of its proposals; null for who may not know.
    pub ranking_version: Option<i64>,
    /// RFC 3339.
    pub created_at: String,
    /// When its status last changed, RFC 3339.
    pub updated_at: String,
}

/// A bid is extended when the best proposal changes shortly before its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenAntiSniping {
    /// How long before the end, seconds, 1-86400.
    pub window_s: u32,
    /// By how much, seconds, 1-86400.
    pub extend_s: u32,
}

impl BidView {
    /// The bid, as this viewer may see it.
    pub fn new(bid: &Bid, viewer: &Viewer) -> Self {
        let awarded = bid.awarded.as_ref().and_then(|id| match (viewer.owns(bid), bid.visibility) {
            (true, _) | (_, Visibility::Open) => Some(id.clone()),
            (_, Visibility::Anonymous) => Some(Pseudonyms::new(&bid.secret).proposal(id)),
            (_, Visibility::Sealed) => None,
        });
        let knows_changes = viewer.owns(bid) || bid.visibility != Visibility::Sealed;
        let about = bid.about.clone();
        BidView {
            bid_id: bid.id.clone(),
            owner: bid.owner.clone(),
            title: about.title,
            origin: about.origin,
            destination: about.destination,
            cargo: about.cargo,
            criteria: bid.criteria.written(),
            visibility: bid.visibility,
            max_ei: bid.max_ei.map(number),
            status: bid.status,
            opens_at: bid.opens_at.map(|at| at.to_string()),
            closes_at: bid.closes_at.map(|at| at.to_string()),
            anti_sniping: bid.anti_sniping.map(|own| WrittenAntiSniping {
                window_s: (own.window_us / 1_000_000) as u32,
                extend_s: (own.extend_us / 1_000_000) as u32,
            }),
            awarded_proposal_id: awarded,
            order_id: bid.order_id.clone().filter(|_| viewer.owns(bid)),
            version: bid.version,
            ranking_version: knows_changes.then_some(bid.ranking_version),
            created_at: bid.created_at.to_string(),
            updated_at: bid.updated_at.to_string(),
        }
    }
}

/// Which part of a ranking is asked for.
#[derive(Clone, Debug)]
pub enum Window {
    /// Up to `limit` after the first `offset`.
    Offset {
        /// Ranks before it.
        offset: usize,
        /// Rows.
        limit: usize,
    },
    /// Up to `limit` with this proposal in the middle.
    Around {
        /// The proposal, or its pseudonym where the viewer sees pseudonyms.
        proposal_id: String,
        /// Rows.
        limit: usize,
    },
}

/// A part of a ranking.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct RankingView {
    /// The bid.
    pub bid_id: String,
    /// Counts the changes.
    pub version: i64,
    /// How many proposals are ranked.
    pub total: usize,
    /// Ranks before the first row.
    pub offset: usize,
    /// In order.
    pub ranked_proposals: Vec<RankedProposal>,
}

impl RankingView {
    /// Refuses whoever may see nothing of the ranking.
    pub fn require_seen(bid: &Bid, viewer: &Viewer) -> Result<(), Refusal> {
        match bid.visibility == Visibility::Sealed && !viewer.owns(bid) {
            true => Err(Refusal::forbidden("sealed", "only the owner sees the proposals of a sealed bid")),
            false => Ok(()),
        }
    }

    /// The part of the ranking that is asked for, as this viewer may see it.
    pub fn new(bid: &Bid, ranking: &BidRanking, viewer: &Viewer, window: &Window) -> Result<Self, Refusal> {
        Self::require_seen(bid, viewer)?;
        let is_veiled = bid.visibility == Visibility::Anonymous && !viewer.owns(bid);
        let pseudonyms = is_veiled.then(|| Pseudonyms::new(&bid.secret));
        let (offset, limit) = match window {
            Window::Offset { offset, limit } => (*offset, *limit),
            Window::Around { proposal_id, limit } => {
                let own = ranking.ranked(proposal_id).filter(|own| {
                    // of those of others one knows the pseudonym
                    !is_veiled || viewer.speaks.holds(&own.proposal.carrier)
                });
                let other = || is_veiled.then(|| ranking.ranked_under(proposal_id)).flatten();
                let rank = own.or_else(other).ok_or_else(no_such_proposal)?.rank;
                ((rank - 1).saturating_sub(limit / 2), *limit)
            }
        };
        let shown = |ranked: &Ranked<'_>| {
            let row = RankedProposal::new(ranked, Some(ranked.rank));
            match &pseudonyms {
                Some(pseudonyms) => row.under(pseudonyms),
                None => row,
            }
        };
        Ok(RankingView {
            bid_id: bid.id.clone(),
            version: ranking.version(),
            total: ranking.total(),
            offset,
            ranked_proposals: ranking.window(offset, limit).iter().map(shown).collect(),
        })
    }
}
