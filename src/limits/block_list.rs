use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{network_of, parse_network};
use crate::domain::Timestamp;

/// Networks that may not connect, each until a moment or for good.
///
/// A lookup masks the address once per prefix length in use, so it costs the same for ten networks as for a
/// hundred thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList {
    until: HashMap<IpNet, Option<Timestamp>>,
    /// Prefix lengths in use, by whether they are IPv4's.
    lengths: BTreeSet<(bool, u8)>,
}

impl BlockList {
    /// Reads a file of addresses and networks, one a line; `#` begins a comment. The error is the first line
    /// that is neither.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut list = BlockList::default();
        for line in text.lines() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                let network =
                    parse_network(entry).ok_or_else(|| entry.chars().take(64).collect::<String>())?;
                list.add(network, None);
            }
        }
        Ok(list)
    }

    /// Adds a network; of two entries for the same one the later end is in force.
    pub fn add(&mut self, network: IpNet, until: Option<Timestamp>) {
        let network = network.trunc();
        self.lengths.insert((matches!(network, IpNet::V4(_)), network.prefix_len()));
        let own = self.until.entry(network).or_insert(until);
        *own = own.zip(until).map(|(own, until)| own.max(until));
    }

    /// Whether an address lies in a blocked network at this moment.
    ///
    /// Loopback is only blocked by an entry that lies within loopback, so that `0.0.0.0/0` does not lock out the
    /// machine's own operator.
    pub fn is_blocked(&self, address: IpAddr, now: Timestamp) -> bool {
        let address = address.to_canonical();
        let own_lengths = self.lengths.iter().filter(|(is_v4, _)| *is_v4 == address.is_ipv4());
        own_lengths.filter_map(|(_, length)| network_of(address, *length)).any(|network| {
            let in_force =
                self.until.get(&network).is_some_and(|until| until.is_none_or(|until| until > now));
            in_force && (!address.is_loopback() || is_loopback(network))
        })
    }

    /// Networks on the list, expired ones included.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

fn is_loopback(network: IpNet) -> bool {
    network.network().is_loopback() && network.broadcast().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn blocks(list: &BlockList, address: &str) -> bool {
        list.is_blocked(address.parse().unwrap(), at(10))
    }

    #[test]
    fn a_file_holds_one_network_a_line_with_comments() {
        let list =
            BlockList::read("# scanners\n192.0.2.0/24 # a range\n\n2001:db8::/32\n198.51.100.7\n").unwrap();
        assert_eq!(list.len(), 3);
        for blocked in ["192.0.2.200", "::ffff:192.0.2.1", "2001:db8:1::1", "198.51.100.7"] {
            assert!(blocks(&list, blocked), "{blocked}");
        }
        assert!(!blocks(&list, "198.51.100.8") && !blocks(&list, "192.0.3.1") && !blocks(&list, "::1"));
        assert_eq!(BlockList::read("192.0.2.1\nexample.org # no"), Err("example.org".into()));
    }

    #[test]
    fn loopback_is_never_blocked_by_accident() {
        let all = BlockList::read("0.0.0.0/0\n::/0").unwrap();
        assert!(blocks(&all, "192.0.2.1") && blocks(&all, "2001:db8::1"));
        assert!(!blocks(&all, "127.0.0.1") && !blocks(&all, "::1"));
        let own = BlockList::read("127.0.0.2").unwrap();
        assert!(blocks(&own, "127.0.0.2") && !blocks(&own, "127.0.0.1"));
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // close together, so that they overlap
        prop_oneof![
            (0..4096u32, 16..=32u8).prop_map(|(low, len)| (IpAddr::V4((0xc000_0000 | low).into()), len)),
            (0..4096u128, 110..=128u8).prop_map(|(low, len)| (IpAddr::V6((0x2001 << 112 | low).into()), len)),
        ]
        .prop_map(|(address, length)| network_of(address, length).unwrap())
    }

    proptest! {
        #[test]
        fn the_list_answers_like_a_walk_over_its_entries(
            entries in prop::collection::vec((network(), prop::option::of(0..20i64)), 0..20),
            low in 0..4096u32, v4 in any::<bool>(), now in 0..20i64,
        ) {
            let address = match v4 {
                true => IpAddr::V4((0xc000_0000 | low).into()),
                false => IpAddr::V6((0x2001 << 112 | u128::from(low)).into()),
            };
            let mut list = BlockList::default();
            entries.iter().for_each(|(network, until)| list.add(*network, until.map(at)));
            let walk = entries.iter().any(|(network, until)| {
                network.contains(&address) && until.is_none_or(|until| until > now)
            });
            prop_assert_eq!(list.is_blocked(address, at(now)), walk);
        }
    }
}
