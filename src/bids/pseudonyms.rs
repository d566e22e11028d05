use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::hmac;

/// Stable names for the carriers and proposals of one bid, which tell nothing about whom they stand for.
///
/// HMAC-SHA-256 (RFC 2104) under a secret of the bid, cut to 64 bits.
#[derive(Clone, Debug)]
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// Those of the bid with this secret.
    pub fn new(secret: &str) -> Self {
        Pseudonyms(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// The name of a carrier.
    pub fn carrier(&self, id: &str) -> String {
        self.of('c', id)
    }

    /// The name of a proposal.
    pub fn proposal(&self, id: &str) -> String {
        self.of('p', id)
    }

    fn of(&self, kind: char, id: &str) -> String {
        format!("{kind}-{:016x}", self.number(kind, id))
    }

    fn number(&self, kind: char, id: &str) -> u64 {
        let tag = hmac::sign(&self.0, format!("{kind}:{id}").as_bytes());
        u64::from_be_bytes(tag.as_ref()[..8].try_into().expect("eight of its bytes"))
    }
}

/// The proposals of one bid by their pseudonyms.
#[derive(Debug)]
pub struct Unveiled {
    pseudonyms: Pseudonyms,
    proposals: HashMap<u64, Arc<str>>,
}

impl Unveiled {
    /// Without proposals.
    pub fn new(pseudonyms: Pseudonyms) -> Self {
        Unveiled { pseudonyms, proposals: HashMap::new() }
    }

    /// A proposal comes.
    pub fn insert(&mut self, id: &Arc<str>) {
        self.proposals.insert(self.pseudonyms.number('p', id), id.clone());
    }

    /// A proposal goes.
    pub fn remove(&mut self, id: &str) {
        self.proposals.remove(&self.pseudonyms.number('p', id));
    }

    /// The proposal behind a pseudonym.
    pub fn find(&self, pseudonym: &str) -> Option<&Arc<str>> {
        let number = u64::from_str_radix(pseudonym.strip_prefix("p-")?, 16).ok()?;
        // there is one way to write it
        self.proposals.get(&number).filter(|id| self.pseudonyms.proposal(id) == pseudonym)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_within_a_bid_and_differ_between_bids_and_kinds() {
        let (own, other) = (Pseudonyms::new("a"), Pseudonyms::new("b"));
        assert_eq!(own.carrier("kim"), Pseudonyms::new("a").carrier("kim"));
        assert_ne!(own.carrier("kim"), own.carrier("lee"));
        assert_ne!(own.carrier("kim"), other.carrier("kim"));
        assert_ne!(own.carrier("kim")[1..], own.proposal("kim")[1..]);
        assert_eq!(own.carrier("kim").len(), 18);
    }

    #[test]
    fn a_proposal_is_found_by_its_pseudonym_while_it_is_there() {
        let names = Pseudonyms::new("a");
        let mut own = Unveiled::new(names.clone());
        let ids: Vec<Arc<str>> = (0..100).map(|number| format!("P-{number}").into()).collect();
        ids.iter().for_each(|id| own.insert(id));
        for id in &ids {
            assert_eq!(own.find(&names.proposal(id)), Some(id));
        }
        let shown = names.proposal("P-7");
        let others =
            [names.carrier("P-7"), names.proposal("P-100"), shown.to_uppercase(), format!("{shown}0")];
        for other in others.iter().map(String::as_str).chain(["", "p-", "p-+1", "P-7", &shown[2..]]) {
            assert_eq!(own.find(other), None, "{other}");
        }
        own.remove("P-7");
        assert_eq!(own.find(&shown), None);
    }
}
