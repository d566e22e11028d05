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
        let tag = hmac::sign(&self.0, format!("{kind}:{id}").as_bytes());
        let digits: String = tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}-{digits}")
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
}
