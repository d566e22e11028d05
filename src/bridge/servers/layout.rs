//! Which servers take writes, and whose slots are whose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// Hash slots of a cluster.
const SLOTS: u16 = 16384;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::bridge) struct Server {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// The masters, and the slots of each where there are several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::bridge) struct Layout {
    masters: Vec<Server>,
    /// The configuration epoch under which each of them is one: the greater of two is later.
    configs: Vec<u64>,
    /// First slot, last slot, and which master has them; in order.
    ranges: Vec<(u16, u16, usize)>,
    is_cluster: bool,
}

/// What one server of a cluster says of one.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub id: String,
    /// Whether it says so of itself.
    pub is_own: bool,
    pub is_master: bool,
    /// Of two that claim a slot, the one with the higher epoch has it.
    pub epoch: u64,
    pub server: Option<Server>,
    pub slots: Vec<(u16, u16)>,
}

impl Layout {
    /// One master has everything; 0 where nobody counts configurations.
    pub fn single(master: Server, config: u64) -> Self {
        let ranges = vec![(0, SLOTS - 1, 0)];
        Layout { masters: vec![master], configs: vec![config], ranges, is_cluster: false }
    }

    /// What the servers of a cluster say, put together.
    ///
    /// What a server says of itself counts more than what others say of it; one that has died keeps its slots until somebody
    /// claims them. Who claims a slot under the highest epoch has
    /// it (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>, "Hash slots configuration
    /// propagation"), so one that was cut off from the others does not win over its successor.
    pub(super) fn of_cluster(claims: &[Claim]) -> Self {
        let reached: BTreeSet<&str> =
            claims.iter().filter(|own| own.is_own).map(|own| own.id.as_str()).collect();
        let counts = |own: &&Claim| own.is_master && (own.is_own || !reached.contains(own.id.as_str()));
        let mut owners: Vec<Option<(u64, &Server)>> = vec![None; usize::from(SLOTS)];
        for claim in claims.iter().filter(counts) {
            let Some(server) = &claim.server else { continue };
            for slot in claim.slots.iter().flat_map(|(first, last)| *first..=*last) {
                if let Some(owner) = owners.get_mut(usize::from(slot))
                    && owner.is_none_or(|(epoch, _)| epoch < claim.epoch)
                {
                    *owner = Some((claim.epoch, server));
                }
            }
        }
        let mut configs = BTreeMap::<&Server, u64>::new();
        for (epoch, server) in owners.iter().flatten() {
            let own = configs.entry(server).or_default();
            *own = (*own).max(*epoch);
        }
        let masters: Vec<Server> = configs.keys().map(|own| (*own).clone()).collect();
        let configs = configs.into_values().collect();
        let numbers: HashMap<&Server, usize> =
            masters.iter().enumerate().map(|(number, server)| (server, number)).collect();
        let mut ranges: Vec<(u16, u16, usize)> = Vec::new();
        for (slot, owner) in (0..).zip(&owners) {
            let Some(master) = owner.and_then(|(_, server)| numbers.get(server)) else { continue };
            match ranges.last_mut() {
                Some((_, last, of)) if *last + 1 == slot && of == master => *last = slot,
                _ => ranges.push((slot, slot, *master)),
            }
        }
        Layout { masters, configs, ranges, is_cluster: true }
    }

    /// All that take writes.
    pub fn masters(&self) -> &[Server] {
        &self.masters
    }

    /// Whether keys and channels have slots.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Who has a key or a channel.
    pub fn of(&self, key: &str) -> Option<&Server> {
        self.number_of(key).map(|number| &self.masters[number])
    }

    /// Under which configuration that is so; 0 where nobody knows.
    pub fn config_of(&self, key: &str) -> u64 {
        self.number_of(key).map_or(0, |number| self.configs[number])
    }

    fn number_of(&self, key: &str) -> Option<usize> {
        let slot = slot(key);
        let after = self.ranges.partition_point(|(_, last, _)| *last < slot);
        let (first, _, master) = self.ranges.get(after)?;
        (*first <= slot).then_some(*master)
    }

    /// A hash tag (what stands in braces) whose slot is this master's.
    pub fn tag(&self, master: &Server) -> Option<String> {
        // a master with a single slot is met after some 16 000 tries on average
        (0..SLOTS as u32 * 16).map(|number| number.to_string()).find(|tag| self.of(tag) == Some(master))
    }
}

/// The slot of a key: of what stands in its first braces, if anything does.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, as the cluster specification asks for.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

/// The answers to `CLUSTER NODES` and `CLUSTER SLOTS` of the server at `asked`.
///
/// Slots say by which address servers want to be called, nodes the rest; a server without an address is the one that was
/// asked.
pub(super) fn read_claims(nodes: &str, endpoints: &BTreeMap<String, Server>, asked: &Server) -> Vec<Claim> {
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let epoch = words.nth(3)?.parse().ok()?;
        let slots = words.skip(1).filter_map(|word| {
            // slots on their way are in brackets
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let has = |flag: &str| flags.split(',').any(|own| own == flag);
        let of_nodes = || {
            let (host, port) = address.split(['@', ',']).next()?.rsplit_once(':')?;
            let host = if host.is_empty() { &asked.host } else { host };
            Some(Server { host: host.to_owned(), port: port.parse().ok().filter(|port| *port > 0)? })
        };
        Some(Claim {
            id: id.to_owned(),
            is_own: has("myself"),
            is_master: has("master"),
            epoch,
            server: endpoints.get(id).cloned().or_else(of_nodes).filter(|_| !has("noaddr")),
            slots: slots.collect(),
        })
    };
    nodes.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(port: u16) -> Server {
        Server { host: "h".into(), port }
    }

    fn claim(port: u16, is_own: bool, epoch: u64, slots: &[(u16, u16)]) -> Claim {
        Claim {
            id: port.to_string(),
            is_own,
            is_master: true,
            epoch,
            server: Some(server(port)),
            slots: slots.to_vec(),
        }
    }

    #[test]
    fn slots_are_those_that_redis_computes() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // CLUSTER KEYSLOT
        for (key, expected) in [("foo", 12182), ("bongsu:{acme}:log", slot("acme")), ("{}a", slot("{}a"))] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }

    #[test]
    fn a_successor_wins_over_the_master_that_was_cut_off() {
        let (old, new) = (claim(1, true, 3, &[(0, 99)]), claim(2, true, 9, &[(0, 99)]));
        for claims in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
            let layout = Layout::of_cluster(&claims);
            let key = layout.tag(&server(2)).map(|tag| format!("{{{tag}}}")).expect("it has slots");
            assert_eq!((layout.masters(), layout.config_of(&key)), (&[server(2)][..], 9));
        }
        // what others say of a server that speaks for itself is of no use
        let hearsay = claim(1, false, 99, &[(0, 99)]);
        let gone = claim(1, true, 99, &[]);
        assert_eq!(Layout::of_cluster(&[hearsay.clone(), gone, new.clone()]).masters(), [server(2)]);
        // of one that does not speak it is all there is
        assert_eq!(Layout::of_cluster(&[hearsay]).masters(), [server(1)]);
    }

    #[test]
    fn what_servers_say_is_read() {
        let text = "a1 10.0.0.1:6379@16379,one myself,master - 0 0 7 connected 0-5 9 [93-<-b2]\n\
                    b2 :7000@17000 master,fail? - 0 0 8 connected 6-8\n\
                    c3 10.0.0.3:0@0 master,noaddr,fail - 0 0 2 disconnected\n\
                    d4 10.0.0.4:6379@16379 slave a1 0 0 7 connected\n\
                    e5 2001:db8::5:6379@16379,five master - 0 0 9 connected\n";
        let endpoints = [("b2".to_owned(), Server { host: "two".into(), port: 7001 })].into();
        let asked = Server { host: "seed".into(), port: 1 };
        let claims = read_claims(text, &endpoints, &asked);
        let shown: Vec<_> = claims.iter().map(|own| own.server.as_ref().map(Server::to_string)).collect();
        let own = |text: &str| Some(text.to_owned());
        let fifth = own("[2001:db8::5]:6379");
        assert_eq!(shown, [own("10.0.0.1:6379"), own("two:7001"), None, own("10.0.0.4:6379"), fifth]);
        assert_eq!((claims[0].epoch, claims[0].slots.as_slice()), (7, &[(0, 5), (9, 9)][..]));
        assert!(claims[0].is_own && claims[1].is_master && !claims[3].is_master);
        let claims = read_claims(text, &BTreeMap::new(), &asked);
        assert_eq!(claims[1].server, Some(Server { host: "seed".into(), port: 7000 }));
    }

    proptest! {
        #[test]
        fn every_slot_is_its_owners(cuts in prop::collection::btree_set(1..SLOTS, 0..40), key in "[a-z{}]{0,12}") {
            let bounds: Vec<u16> = [0].into_iter().chain(cuts).chain([SLOTS]).collect();
            let claims: Vec<Claim> = bounds
                .windows(2)
                .enumerate()
                .map(|(number, cut)| claim(1 + number as u16 % 3, true, 1, &[(cut[0], cut[1] - 1)]))
                .collect();
            let layout = Layout::of_cluster(&claims);
            let owner = claims.iter().find(|own| (own.slots[0].0..=own.slots[0].1).contains(&slot(&key)));
            prop_assert_eq!(layout.of(&key), owner.and_then(|own| own.server.as_ref()));
            for master in layout.masters() {
                let key = layout.tag(master).map(|tag| format!("b:{{{tag}}}:x"));
                prop_assert!(key.is_none_or(|key| layout.of(&key) == Some(master)));
            }
        }

        #[test]
        fn no_text_panics(text in "(.{0,40}\n){0,4}", words in "[a-f0-9:@,. \n-]{0,120}") {
            let asked = server(1);
            let _ = read_claims(&text, &BTreeMap::new(), &asked);
            let claims = read_claims(&words, &BTreeMap::new(), &asked);
            let _ = Layout::of_cluster(&claims);
        }
    }
}
