use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::BidRanking;
use crate::bids::frame::Step;
use crate::bids::{Bid, Disqualified, Proposal, Pseudonyms, Score, Status, Terms};
use crate::domain::{EntityId, Refusal, RefusalKind, Timestamp, Visibility};
use crate::wire::number;

/// Proposals of one carrier that a bid keeps beside its active one: nobody fills a bid by coming and going.
const MOST_WITHDRAWN: usize = 100;

/// What is asked of a bid.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Takes part with a proposal.
    Submit {
        /// Its id within the bid.
        proposal_id: EntityId,
        /// Whose it is.
        carrier_id: EntityId,
        /// What is offered.
        terms: Terms,
    },
    /// Offers something else.
    Revise {
        /// Which proposal.
        proposal_id: EntityId,
        /// What is offered now.
        terms: Terms,
    },
    /// Takes part no more.
    Withdraw {
        /// Which proposal.
        proposal_id: EntityId,
    },
}

/// For which carriers somebody may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// For all.
    ForAny,
    /// For these.
    For(Vec<String>),
}

impl Speaks {
    /// Whether this carrier is among them.
    pub fn holds(&self, carrier: &str) -> bool {
        match self {
            Speaks::ForAny => true,
            Speaks::For(own) => own.iter().any(|own| own == carrier),
        }
    }
}

/// How others see a proposal of a bid whose carriers are anonymous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pseudonym {
    /// In place of the proposal.
    pub proposal_id: String,
    /// In place of its carrier.
    pub carrier_id: String,
}

/// The answer to a change that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Accepted {
    /// The bid.
    pub bid_id: String,
    /// The proposal.
    pub proposal_id: String,
    /// Whose it is.
    pub carrier_id: String,
    /// `ranked`, `disqualified` or `withdrawn`.
    pub status: String,
    /// Why it is not ranked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Disqualified>,
    /// Its rank with this change, from 1; null when it is not ranked.
    pub rank: Option<usize>,
    /// Its rank before it.
    pub previous_rank: Option<usize>,
    /// How many are ranked.
    pub total: usize,
    /// What it is ranked by, lower is better; null when it is not ranked.
    #[schema(value_type = Option<f64>)]
    pub score: Option<Box<RawValue>>,
    /// The ranking's version with this change.
    pub version: i64,
    /// How others see it, where carriers are anonymous.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pseudonym: Option<Pseudonym>,
    /// When it was accepted, RFC 3339.
    pub timestamp: String,
}

/// What changes do to a bid, and how to take it back.
#[derive(Debug)]
pub struct Plan {
    from_version: i64,
    steps: Vec<Step>,
    touched: HashMap<Arc<str>, bool>,
    undo: Vec<(Arc<str>, Option<Proposal>, i64)>,
    changes_of_best: usize,
}

impl Plan {
    /// Before any change.
    pub fn new(ranking: &BidRanking) -> Self {
        Plan {
            from_version: ranking.version(),
            steps: Vec::new(),
            touched: HashMap::new(),
            undo: Vec::new(),
            changes_of_best: 0,
        }
    }

    /// Carries one change out on the ranking, if it is in order; `most`: proposals that a bid may have.
    pub fn carry_out(
        &mut self,
        (bid, ranking): (&Bid, &mut BidRanking),
        (ask, speaks): (&Ask, &Speaks),
        most: usize,
        now: Timestamp,
    ) -> Result<Accepted, Refusal> {
        bid.require_open(now)?;
        let version = ranking.version() + 1;
        let changed = decide((bid, ranking), (ask, speaks), most, version, now)?;
        let (id, carrier, terms) = (changed.id.clone(), changed.carrier.clone(), changed.terms);
        let before = ranking.proposal(&id).cloned();
        self.touched.entry(id.clone()).or_insert(before.is_none());
        self.undo.push((id.clone(), before, ranking.version()));
        let best = best(ranking);
        let splice = ranking.put(changed);
        self.changes_of_best += usize::from(best != self::best(ranking));
        let accepted = accepted(bid, ranking, &id, &splice, now);
        let score = ranking.ranked(&id).map(|own| own.score);
        self.steps.push(Step { splice, carrier, terms, score });
        Ok(accepted)
    }

    /// The ranking's version before all of it.
    pub fn from_version(&self) -> i64 {
        self.from_version
    }

    /// What was done to the list, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How often the best proposal became another one, or a better or worse offer, even where that was undone.
    pub fn changes_of_best(&self) -> usize {
        self.changes_of_best
    }

    /// The proposals that are new, and those that have changed, as they are now.
    pub fn touched<'a>(&self, ranking: &'a BidRanking) -> (Vec<&'a Proposal>, Vec<&'a Proposal>) {
        let (new, old): (Vec<_>, Vec<_>) = self.touched.iter().partition(|(_, is_new)| **is_new);
        let of =
            |own: Vec<(&Arc<str>, &bool)>| own.iter().filter_map(|(id, _)| ranking.proposal(id)).collect();
        (of(new), of(old))
    }

    /// Takes all of it back.
    pub fn undo(&mut self, ranking: &mut BidRanking) {
        for (id, before, version) in self.undo.drain(..).rev() {
            ranking.undo(&id, before, version);
        }
    }
}

/// The best proposal, and what it is ranked by.
fn best(ranking: &BidRanking) -> Option<(Arc<str>, Score)> {
    ranking.window(0, 1).first().map(|own| (own.proposal.id.clone(), own.score))
}

/// The proposal after a change, if the change is in order.
fn decide(
    (bid, ranking): (&Bid, &BidRanking),
    (ask, speaks): (&Ask, &Speaks),
    most: usize,
    version: i64,
    now: Timestamp,
) -> Result<Proposal, Refusal> {
    let own = |id: &EntityId| match ranking.proposal(id.as_str()) {
        // of those of others one learns nothing
        Some(own) if speaks.holds(&own.carrier) => match own.withdrawn {
            true => Err(conflict("withdrawn", format!("the proposal {id} was withdrawn"))),
            false => Ok(own.clone()),
        },
        _ => Err(no_such_proposal()),
    };
    match ask {
        Ask::Submit { proposal_id, carrier_id, terms } => {
            may_submit((bid, ranking), (proposal_id, carrier_id), speaks, most)?;
            Ok(Proposal {
                id: proposal_id.as_str().into(),
                carrier: carrier_id.as_str().into(),
                terms: *terms,
                withdrawn: false,
                version,
                submitted_at: now,
                updated_at: now,
            })
        }
        Ask::Revise { proposal_id, terms } => {
            Ok(Proposal { terms: *terms, version, updated_at: now, ..own(proposal_id)? })
        }
        Ask::Withdraw { proposal_id } => {
            Ok(Proposal { withdrawn: true, version, updated_at: now, ..own(proposal_id)? })
        }
    }
}

fn may_submit(
    (bid, ranking): (&Bid, &BidRanking),
    (proposal_id, carrier_id): (&EntityId, &EntityId),
    speaks: &Speaks,
    most: usize,
) -> Result<(), Refusal> {
    if !speaks.holds(carrier_id.as_str()) {
        return Err(Refusal::forbidden(
            "not_the_carrier",
            format!("only {carrier_id} itself and scope manage may propose for it"),
        ));
    }
    if bid.visibility != Visibility::Open && Uuid::try_parse(proposal_id.as_str()).is_err() {
        // who guesses what others may have chosen would learn by `exists` that they take part
        let detail = "must be a UUID, or be left out: others' proposals to this bid are not for all";
        return Err(Refusal::invalid("proposal_id", detail));
    }
    if ranking.proposal(proposal_id.as_str()).is_some() {
        return Err(conflict("exists", format!("there is a proposal {proposal_id} already")));
    }
    if let Some(own) = ranking.active_of(carrier_id.as_str()) {
        let detail = format!("{carrier_id} takes part with {}: revise or withdraw it", own.id);
        return Err(conflict("one_per_carrier", detail));
    }
    if ranking.withdrawn_of(carrier_id.as_str()) >= MOST_WITHDRAWN {
        let detail = format!("{carrier_id} has withdrawn {MOST_WITHDRAWN} proposals to this bid already");
        return Err(conflict("too_many_withdrawals", detail));
    }
    if ranking.count() >= most {
        return Err(conflict("too_many_proposals", format!("a bid has at most {most} proposals")));
    }
    Ok(())
}

fn accepted(bid: &Bid, ranking: &BidRanking, id: &str, splice: &super::Splice, now: Timestamp) -> Accepted {
    let proposal = ranking.proposal(id).expect("it was put there");
    let (ranked, reason) = (ranking.ranked(id), ranking.disqualified(proposal));
    let status = match (proposal.withdrawn, reason) {
        (true, _) => "withdrawn",
        (false, Some(_)) => "disqualified",
        (false, None) => "ranked",
    };
    let pseudonym = (bid.visibility == Visibility::Anonymous).then(|| {
        let own = Pseudonyms::new(&bid.secret);
        Pseudonym { proposal_id: own.proposal(id), carrier_id: own.carrier(&proposal.carrier) }
    });
    Accepted {
        bid_id: bid.id.clone(),
        proposal_id: id.to_owned(),
        carrier_id: proposal.carrier.to_string(),
        status: status.to_owned(),
        reason,
        rank: splice.to,
        previous_rank: splice.from,
        total: ranking.total(),
        score: ranked.map(|own| number(own.score)),
        version: ranking.version(),
        pseudonym,
        timestamp: now.to_string(),
    }
}

fn conflict(code: &'static str, detail: String) -> Refusal {
    Refusal::new(RefusalKind::Conflict, code, detail)
}

/// The answer where there is no such proposal, or none that the caller may know of.
pub fn no_such_proposal() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_proposal", "the bid has no such proposal of yours")
}

impl Bid {
    /// Refuses changes of proposals when the bid is not open, whether or not its end was noticed yet.
    pub fn require_open(&self, now: Timestamp) -> Result<(), Refusal> {
        let is_over = self.closes_at.is_some_and(|end| now >= end);
        match self.status {
            Status::Open if !is_over => Ok(()),
            Status::Open => Err(conflict("bid_not_open", "the bid is closed: its time is over".into())),
            status => Err(conflict("bid_not_open", format!("the bid is {}", status.as_str()))),
        }
    }
}
