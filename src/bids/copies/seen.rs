//! What is looked for in a ranking, and what is found there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bids::ranking::BidRanking;
use crate::bids::{Bid, Frame, Frames, RankedProposal};

/// What is to be found out about a bid at once.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whether the whole ranking is wanted, and the one that was told last.
    pub whole: Option<Option<Listed>>,
    /// Whose places are wanted.
    pub carriers: Vec<Arc<str>>,
    /// Whether these are all that anybody listens for.
    pub is_all: bool,
}

/// A whole ranking that was told.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its version.
    pub version: i64,
    /// The rank of each proposal in it.
    pub ranks: Arc<HashMap<String, usize>>,
    /// What has become of it, as far as that is known.
    pub since: Option<Frame>,
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
    /// How many proposals are ranked.
    pub total: usize,
    /// The whole ranking, for each kind of viewer, and the ranks in it, if it was wanted.
    pub whole: Option<(Frames, Arc<HashMap<String, usize>>)>,
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
        let whole = |listed| {
            let frame = whole((bid, ranking), listed, (most, window), now);
            let ranks =
                frame.ranked_proposals.iter().map(|row| (row.proposal_id.clone(), row.rank)).collect();
            (Frames::of(frame, seen), Arc::new(ranks))
        };
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
            total: ranking.total(),
            whole: question.whole.map(whole),
            standings: question.carriers.into_iter().map(standing).collect(),
        }
    }
}

/// The whole ranking, or its window where it is too long; with what has changed since another one.
fn whole(
    (bid, ranking): (&Bid, &BidRanking),
    listed: Option<Listed>,
    (most, window): (usize, usize),
    timestamp: String,
) -> Frame {
    let version = ranking.version();
    // of the same version nothing has changed
    let listed = listed.filter(|listed| listed.version != version);
    let since =
        listed.as_ref().and_then(|listed| listed.since.as_ref()).filter(|since| since.version == version);
    let truncated = ranking.total() > most;
    let before = |id: &str, rank: usize| match (&listed, since) {
        // of a list that was not whole the moves may know more
        (Some(listed), since) => {
            let known = listed.ranks.get(id).copied();
            known.or_else(|| since?.rank_before(id, Some(rank)))
        }
        (None, _) => Some(rank),
    };
    let rows = ranking.window(0, if truncated { window } else { most });
    let rows = rows.iter().map(|own| RankedProposal::new(own, before(&own.proposal.id, own.rank)));
    Frame {
        bid_id: bid.id.clone(),
        version,
        from_version: listed.as_ref().map_or(version, |listed| listed.version),
        total: ranking.total(),
        ranked_proposals: rows.collect(),
        moves: since.and_then(|since| since.moves.clone()),
        reset: since.is_some_and(|since| since.reset),
        truncated: truncated.then_some(true),
        timestamp,
    }
}

/// The whole ranking as everybody may see it.
pub fn whole_for_all(bid: &Bid, ranking: &BidRanking, rows: (usize, usize), timestamp: String) -> String {
    let frame = whole((bid, ranking), None, rows, timestamp);
    let Frames { full, public } = Frames::of(frame, (bid.visibility, &bid.secret));
    public.unwrap_or(full)
}
