//! What is looked for in a ranking, and what is found there.

use std::sync::Arc;

use crate::bids::ranking::BidRanking;
use crate::bids::{Bid, Frame, Frames, RankedProposal};
use crate::domain::Visibility;

/// What is to be found out about a bid at once.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whether the whole ranking is wanted, and what has become of the one that was told last.
    pub whole: Option<Option<Frame>>,
    /// Whose places are wanted.
    pub carriers: Vec<Arc<str>>,
    /// Whether these are all that anybody listens for.
    pub is_all: bool,
}

/// Where a carrier's proposal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which proposal.
    pub proposal_id: Arc<str>,
    /// The ranking's version with its last change.
    pub changed_at: i64,
    /// From 1; None: it is not ranked.
    pub rank: Option<usize>,
    /// How many are ranked.
    pub total: usize,
}

/// What a look has found.
#[derive(Debug)]
pub struct Seen {
    /// The ranking's version.
    pub version: i64,
    /// Whether nothing will change any more.
    pub is_over: bool,
    /// The whole ranking, for each kind of viewer, if it was wanted.
    pub whole: Option<Frames>,
    /// Where these carriers stand; None: one takes no part (any more).
    pub standings: Vec<(Arc<str>, Option<Standing>)>,
}

impl Seen {
    /// Looks; `most` and `window` are rows of a whole ranking, and of one that is too long for that.
    pub fn new(
        bid: &Bid,
        ranking: &BidRanking,
        question: Question,
        (most, window): (usize, usize),
        now: String,
    ) -> Self {
        let seen = (bid.visibility, bid.secret.as_str());
        let whole = |since: Option<Frame>| whole((bid, ranking), since, (most, window), seen, now);
        let standing = |carrier: Arc<str>| {
            let own = ranking.active_of(&carrier).map(|own| Standing {
                proposal_id: own.id.clone(),
                changed_at: own.version,
                rank: ranking.ranked(&own.id).map(|ranked| ranked.rank),
                total: ranking.total(),
            });
            (carrier, own)
        };
        Seen {
            version: ranking.version(),
            is_over: bid.status.is_over(),
            whole: question.whole.map(whole),
            standings: question.carriers.into_iter().map(standing).collect(),
        }
    }
}

/// The whole ranking, or its window where it is too long; with what has changed, where that leads to here.
fn whole(
    (bid, ranking): (&Bid, &BidRanking),
    since: Option<Frame>,
    (most, window): (usize, usize),
    seen: (Visibility, &str),
    timestamp: String,
) -> Frames {
    let since = since.filter(|since| since.version == ranking.version());
    let truncated = ranking.total() > most;
    let rows = ranking.window(0, if truncated { window } else { most });
    let before = |id: &str, rank: usize| match &since {
        Some(since) => since.rank_before(id, Some(rank)),
        None => Some(rank),
    };
    let rows = rows.iter().map(|own| RankedProposal::new(own, before(&own.proposal.id, own.rank)));
    let frame = Frame {
        bid_id: bid.id.clone(),
        version: ranking.version(),
        from_version: since.as_ref().map_or(ranking.version(), |since| since.from_version),
        total: ranking.total(),
        ranked_proposals: rows.collect(),
        reset: since.as_ref().is_some_and(|since| since.reset),
        truncated: truncated.then_some(true),
        timestamp,
        moves: since.and_then(|since| since.moves),
    };
    Frames::of(frame, seen)
}

/// The whole ranking as everybody may see it.
pub fn whole_for_all(bid: &Bid, ranking: &BidRanking, rows: (usize, usize), timestamp: String) -> String {
    let Frames { full, public } = whole((bid, ranking), None, rows, (bid.visibility, &bid.secret), timestamp);
    public.unwrap_or(full)
}
