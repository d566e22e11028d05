use std::collections::HashMap;
use std::sync::Arc;

use super::order_statistics::OrderStatistics;
use crate::bids::{Criteria, Disqualified, Proposal, Pseudonyms, Score, Unveiled, appraise};
use crate::domain::Decimal;

/// What proposals are sorted by: the score, then the version of acceptance, then the id.
type Key = (Score, i64, Arc<str>);

/// What a change did to the list of ranked proposals, ranks from 1 at that moment: take out at `from`, then put
/// in at `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Whose place.
    pub proposal: Arc<str>,
    /// Where it was, if it was ranked.
    pub from: Option<usize>,
    /// Where it is, if it is ranked.
    pub to: Option<usize>,
}

impl Splice {
    /// The rank before this splice of what has `rank` after it; None: it is not, or was not, ranked.
    pub fn undone(&self, proposal: &str, rank: Option<usize>) -> Option<usize> {
        rank_before(*self.proposal == *proposal, (self.from, self.to), rank)
    }
}

/// The rank before something was taken out at `from` and put in at `to`, of what has `rank` after it; None: it is not,
/// or was not, ranked.
pub fn rank_before(
    is_own: bool,
    (from, to): (Option<usize>, Option<usize>),
    rank: Option<usize>,
) -> Option<usize> {
    if is_own {
        return from;
    }
    let taken = rank? - usize::from(to.is_some_and(|to| Some(to) < rank));
    Some(taken + usize::from(from.is_some_and(|from| from <= taken)))
}

/// A ranked proposal.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    /// From 1.
    pub rank: usize,
    /// What it is ranked by.
    pub score: Score,
    /// The proposal.
    pub proposal: &'a Proposal,
}

/// The proposals of one bid in their order; everything about one proposal is O(log n).
#[derive(Debug)]
pub struct BidRanking {
    criteria: Criteria,
    max_ei: Option<Decimal>,
    version: i64,
    proposals: HashMap<Arc<str>, Proposal>,
    /// The one proposal of each carrier that is not withdrawn.
    active: HashMap<Arc<str>, Arc<str>>,
    /// How many each carrier has withdrawn.
    withdrawn: HashMap<Arc<str>, usize>,
    order: OrderStatistics<Key>,
    /// By pseudonym, where proposals have one.
    unveiled: Option<Unveiled>,
}

impl BidRanking {
    /// Without proposals.
    pub fn new(criteria: Criteria, max_ei: Option<Decimal>) -> Self {
        BidRanking {
            criteria,
            max_ei,
            version: 0,
            proposals: HashMap::new(),
            active: HashMap::new(),
            withdrawn: HashMap::new(),
            order: OrderStatistics::default(),
            unveiled: None,
        }
    }

    /// The same, whose proposals can be found by these pseudonyms; still without proposals.
    #[must_use]
    pub fn under(self, pseudonyms: Pseudonyms) -> Self {
        BidRanking { unveiled: Some(Unveiled::new(pseudonyms)), ..self }
    }

    /// Counts the changes.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// How many proposals there are, withdrawn ones included.
    pub fn count(&self) -> usize {
        self.proposals.len()
    }

    /// How many proposals are ranked.
    pub fn total(&self) -> usize {
        self.order.count()
    }

    /// A proposal, withdrawn ones included.
    pub fn proposal(&self, id: &str) -> Option<&Proposal> {
        self.proposals.get(id)
    }

    /// The proposal of a carrier that is not withdrawn.
    pub fn active_of(&self, carrier: &str) -> Option<&Proposal> {
        self.proposals.get(self.active.get(carrier)?)
    }

    /// How many proposals a carrier has withdrawn.
    pub fn withdrawn_of(&self, carrier: &str) -> usize {
        self.withdrawn.get(carrier).copied().unwrap_or(0)
    }

    /// Takes a proposal in as it is now; the ranking's version becomes that of the change.
    pub fn put(&mut self, proposal: Proposal) -> Splice {
        self.version = self.version.max(proposal.version);
        self.replace(&proposal.id.clone(), Some(proposal))
    }

    /// Takes back a change: the proposal is as it was before, and the ranking at that version.
    pub fn undo(&mut self, id: &Arc<str>, before: Option<Proposal>, version: i64) {
        self.version = version;
        self.replace(id, before);
    }

    fn replace(&mut self, id: &Arc<str>, now: Option<Proposal>) -> Splice {
        let before = self.proposals.remove(id);
        match (&mut self.unveiled, before.is_some(), now.is_some()) {
            (Some(own), false, true) => own.insert(id),
            (Some(own), true, false) => own.remove(id),
            _ => {}
        }
        let key = |proposal: &Proposal| self.key(proposal).ok();
        let (old, new) = (before.as_ref().and_then(key), now.as_ref().and_then(key));
        if let Some(count) =
            before.as_ref().filter(|own| own.withdrawn).and_then(|own| self.withdrawn.get_mut(&own.carrier))
        {
            *count -= 1;
        }
        if let Some(before) = before.filter(|before| self.active.get(&before.carrier) == Some(id)) {
            self.active.remove(&before.carrier);
        }
        if let Some(now) = now {
            match now.withdrawn {
                true => *self.withdrawn.entry(now.carrier.clone()).or_default() += 1,
                false => drop(self.active.insert(now.carrier.clone(), id.clone())),
            }
            self.proposals.insert(id.clone(), now);
        }
        let from = old.and_then(|key| self.order.remove(&key));
        let to = new.and_then(|key| self.order.insert(key));
        Splice { proposal: id.clone(), from: from.map(|place| place + 1), to: to.map(|place| place + 1) }
    }

    fn key(&self, proposal: &Proposal) -> Result<Key, Option<Disqualified>> {
        if proposal.withdrawn {
            return Err(None);
        }
        let score = appraise(&proposal.terms, &self.criteria, self.max_ei).map_err(Some)?;
        Ok((score, proposal.version, proposal.id.clone()))
    }

    /// Why a proposal that is not withdrawn is not ranked.
    pub fn disqualified(&self, proposal: &Proposal) -> Option<Disqualified> {
        self.key(proposal).err().flatten()
    }

    /// A proposal with its rank; None: it is not ranked.
    pub fn ranked(&self, id: &str) -> Option<Ranked<'_>> {
        let proposal = self.proposals.get(id)?;
        let key = self.key(proposal).ok()?;
        let place = self.order.place(&key)?;
        Some(Ranked { rank: place + 1, score: key.0, proposal })
    }

    /// The proposal behind a pseudonym, with its rank; None: there is none, it is not ranked, or none has a pseudonym.
    pub fn ranked_under(&self, pseudonym: &str) -> Option<Ranked<'_>> {
        self.ranked(self.unveiled.as_ref()?.find(pseudonym)?)
    }

    /// Up to `limit` ranked proposals after the first `offset`, in order.
    pub fn window(&self, offset: usize, limit: usize) -> Vec<Ranked<'_>> {
        let keys = self.order.range(offset, limit).into_iter().enumerate();
        keys.map(|(at, (score, _, id))| Ranked {
            rank: offset + at + 1,
            score: *score,
            proposal: &self.proposals[id],
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bids::Terms;
    use crate::domain::Timestamp;
    use proptest::prelude::*;

    fn ranking() -> BidRanking {
        let criteria = r#"[{"field":"price","weight":1,"direction":"asc","reference":1}]"#;
        let criteria = Criteria::check(serde_json::from_str(criteria).unwrap()).unwrap();
        BidRanking::new(criteria, Some(Decimal::from_millionths(50)))
    }

    fn proposal(number: usize, price: i64, version: i64, withdrawn: bool) -> Proposal {
        Proposal {
            id: format!("p{number}").into(),
            carrier: format!("c{number}").into(),
            terms: Terms {
                price: Decimal::from_millionths(price),
                // some are above the maximum
                ei: Decimal::from_millionths(price % 60),
                lead_time_hours: Decimal::from_millionths(0),
                rating: None,
            },
            withdrawn,
            version,
            submitted_at: Timestamp::from_micros(version),
            updated_at: Timestamp::from_micros(version),
        }
    }

    /// Everybody who is ranked, by sorting.
    fn sorted(own: &BidRanking) -> Vec<Arc<str>> {
        let mut all: Vec<&Proposal> = own.proposals.values().collect();
        all.retain(|one| !one.withdrawn && one.terms.ei.millionths() <= 50);
        all.sort_by_key(|one| (one.terms.price, one.version, one.id.clone()));
        all.into_iter().map(|one| one.id.clone()).collect()
    }

    fn shown(own: &BidRanking) -> Vec<Arc<str>> {
        own.window(0, usize::MAX).into_iter().map(|ranked| ranked.proposal.id.clone()).collect()
    }

    proptest! {
        /// After any changes the ranking is what sorting gives, splices turn one list into the next, ranks before
        /// are found from ranks after, and taking changes back leaves what was.
        #[test]
        fn it_is_what_sorting_gives(changes in prop::collection::vec((0usize..30, 0i64..120, 0u8..4), 1..120)) {
            let (mut own, mut list) = (ranking(), Vec::<Arc<str>>::new());
            let mut undo = Vec::new();
            for (number, price, kind) in changes {
                let (id, version): (Arc<str>, _) = (format!("p{number}").into(), own.version() + 1);
                let before = own.proposal(&id).cloned();
                let (listed, at) = (list.clone(), own.version());
                let splice = own.put(proposal(number, price, version, kind == 0));
                undo.push((id, before, at));
                if let Some(from) = splice.from {
                    prop_assert_eq!(&*list.remove(from - 1), &*splice.proposal);
                }
                if let Some(to) = splice.to {
                    list.insert(to - 1, splice.proposal.clone());
                }
                prop_assert_eq!(&list, &sorted(&own));
                prop_assert_eq!(&list, &shown(&own));
                prop_assert_eq!((own.total(), own.version()), (list.len(), version));
                for (place, id) in list.iter().enumerate() {
                    let former = listed.iter().position(|own| own == id).map(|place| place + 1);
                    prop_assert_eq!(splice.undone(id, Some(place + 1)), former);
                    prop_assert_eq!(own.ranked(id).map(|ranked| ranked.rank), Some(place + 1));
                }
            }
            let half = undo.len() / 2;
            let mut again = ranking();
            for (id, before, at) in undo.split_off(half).into_iter().rev() {
                own.undo(&id, before, at);
            }
            for one in own.proposals.values() {
                again.put(one.clone());
            }
            prop_assert_eq!(shown(&own), shown(&again));
            prop_assert_eq!(own.version() as usize, half);
            prop_assert_eq!(own.active.len(), own.proposals.values().filter(|one| !one.withdrawn).count());
        }
    }
}
