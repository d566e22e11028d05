//! A Redis Cluster: three masters, each with a replica.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::gate::State;
use super::group::{Group, GroupOptions};
use crate::support::{eventually, pause};

/// Nodes 0 to 2 are masters to begin with, nodes 3 to 5 their replicas in the same order.
const NODES: usize = 6;

/// How many slots there are.
const SLOTS: usize = 16_384;

/// A Redis Cluster of six nodes; all killed when dropped.
pub struct RedisCluster {
    group: Group,
    ids: Vec<String>,
    /// When each node was last elected.
    elected: Mutex<[Option<Instant>; NODES]>,
}

/// A slot on its way.
pub struct Moving {
    slot: u16,
    from: usize,
    to: usize,
}

/// A line of `CLUSTER NODES`.
struct Known {
    node: usize,
    is_master: bool,
    is_well: bool,
    slots: Vec<RangeInclusive<u16>>,
}

impl Deref for RedisCluster {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl DerefMut for RedisCluster {
    fn deref_mut(&mut self) -> &mut Group {
        &mut self.group
    }
}

impl RedisCluster {
    /// An empty one that is whole.
    pub async fn start() -> Self {
        Self::with(GroupOptions::default()).await
    }

    /// With options.
    pub async fn with(options: GroupOptions) -> Self {
        let random = bongsu::clock::random_u64();
        let ids = (0..NODES).map(|n| format!("{random:016x}{n:024x}")).collect::<Vec<_>>();
        // another process may have one of the addresses: then others
        for _ in 0..5 {
            let group = Group::reserve(&options, 6, 2, &[]);
            let mut own = RedisCluster { group, ids: ids.clone(), elected: Mutex::default() };
            if own.launch_all().await {
                own.settled().await;
                return own;
            }
        }
        panic!("Redis did not start");
    }

    async fn launch_all(&mut self) -> bool {
        for n in 0..NODES {
            let bus = self.address(n).port() + 1;
            let mut lines = self.data(n);
            lines.extend([
                "cluster-enabled yes".to_owned(),
                "cluster-config-file nodes.conf".to_owned(),
                "cluster-allow-replica-migration no".to_owned(),
                format!("cluster-node-timeout {}", self.timeout().as_millis()),
                format!("cluster-announce-ip {}", self.address(n).ip()),
                format!("cluster-port {bus}"),
            ]);
            lines.extend(self.access().authority.is_some().then(|| "tls-cluster yes".to_owned()));
            if self.is_named() {
                lines.push(format!("cluster-announce-hostname {}", self.host(n)));
                lines.push("cluster-preferred-endpoint-type hostname".to_owned());
            }
            self.write(n, "redis.conf", &lines);
            self.write(n, "nodes.conf", &self.nodes(n));
            if !self.launch(n).await {
                return false;
            }
        }
        true
    }

    /// What a node remembers of a cluster that it has been in: so nobody has to be introduced.
    fn nodes(&self, own: usize) -> Vec<String> {
        let line = |n: usize| {
            let address = self.address(n);
            let flags = if n == own { "myself," } else { "" };
            let role = match n {
                0..3 => {
                    format!("master - 0 0 {} connected {}-{}", n + 1, n * SLOTS / 3, (n + 1) * SLOTS / 3 - 1)
                }
                _ => format!("slave {} 0 0 {} connected", self.ids[n - 3], n - 2),
            };
            format!("{} {address}@{} {flags}{role}", self.ids[n], address.port() + 1)
        };
        (0..NODES).map(line).chain(["vars currentEpoch 3 lastVoteEpoch 0".to_owned()]).collect()
    }

    /// Its URL, by all nodes.
    pub fn url(&self) -> String {
        self.access().url("cluster", (0..NODES).map(|n| self.host_and_port(n)))
    }

    /// A key's slot.
    pub fn slot(&self, key: &str) -> u16 {
        self.cli(self.reachable()[0], &["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// The node that has a slot.
    pub fn owner(&self, slot: u16) -> usize {
        let known = self.known(self.reachable()[0]);
        let owner = known.iter().find(|known| known.slots.iter().any(|range| range.contains(&slot)));
        owner.expect("all slots are had").node
    }

    /// The other one of the pair that a node is in, whichever of them is the master: pairs stay.
    pub fn replica_of(&self, n: usize) -> usize {
        (n + NODES / 2) % NODES
    }

    /// Starts a node again, empty but for what it knows of the cluster.
    pub async fn restart(&mut self, n: usize) {
        assert!(self.launch(n).await, "the addresses are still ours");
    }

    /// Waits until the replica of a master that is away is the master in everybody's eyes; that one.
    pub async fn failover_by_itself(&self, n: usize) -> usize {
        let replica = self.replica_of(n);
        let taken = async || self.has_taken_over(replica, n).then_some(replica);
        let new = eventually("a replica that takes over", taken).await;
        self.elected.lock().expect("no panic")[new] = Some(Instant::now());
        new
    }

    /// Has the replica of a master take its place, in everybody's eyes; that one. Back goes the same way.
    ///
    /// Who was elected a short time ago would take those votes for new ones, be the master for a moment with an
    /// epoch that is past, and be put right: so it waits for as long as an election may last.
    pub async fn failover(&self, n: usize) -> usize {
        let replica = self.replica_of(n);
        let elected = self.elected.lock().expect("no panic")[replica];
        if let Some(elected) = elected {
            let lasts = (self.timeout() * 4).max(Duration::from_secs(4));
            pause(lasts.saturating_sub(elected.elapsed())).await;
        }
        let asked = async || (self.cli(replica, &["CLUSTER", "FAILOVER"]) == "OK").then_some(());
        eventually("a replica that may take over", asked).await;
        self.failover_by_itself(n).await
    }

    fn has_taken_over(&self, new: usize, old: usize) -> bool {
        self.info(new, "replication", "role") == "master"
            && self.reachable().iter().all(|n| {
                let known = self.known(*n);
                let of = |node| known.iter().find(|known| known.node == node).expect("all are known");
                of(new).is_master && !of(new).slots.is_empty() && of(old).slots.is_empty() && self.is_ok(*n)
            })
    }

    /// Moves a slot with its keys.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.begin_move(slot, to);
        self.finish(moving).await;
    }

    /// Begins to move a slot: its keys are still where they were, and new ones are asked of both nodes.
    pub fn begin_move(&self, slot: u16, to: usize) -> Moving {
        let from = self.owner(slot);
        let text = slot.to_string();
        self.must(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &self.ids[from]]);
        self.must(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &self.ids[to]]);
        Moving { slot, from, to }
    }

    /// Moves so many of the slot's keys, or what is left; how many.
    pub fn move_keys(&self, moving: &Moving, count: usize) -> usize {
        // by the server itself: names of keys may hold what no line of a terminal does
        const MOVE: &str = "local keys = redis.call('CLUSTER', 'GETKEYSINSLOT', ARGV[1], ARGV[2]) \
             if #keys == 0 then return 0 end \
             local words = { 'MIGRATE', ARGV[3], ARGV[4], '', 0, 5000 } \
             for index = 5, #ARGV do words[#words + 1] = ARGV[index] end \
             words[#words + 1] = 'KEYS' \
             for _, key in ipairs(keys) do words[#words + 1] = key end \
             redis.call(unpack(words)) \
             return #keys";
        let (slot, count, to) = (moving.slot.to_string(), count.to_string(), self.address(moving.to));
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let mut args = vec!["EVAL", MOVE, "0", &slot, &count, &ip, &port];
        if let Some((name, password)) = &self.access().user {
            args.extend(["AUTH2", name, password]);
        }
        let moved = self.cli(moving.from, &args);
        moved.parse().unwrap_or_else(|_| panic!("{moved}"))
    }

    /// Moves what is left, and waits until everybody knows where the slot is.
    pub async fn finish(&self, moving: Moving) {
        while self.move_keys(&moving, 10) > 0 {}
        let (slot, new) = (moving.slot.to_string(), &self.ids[moving.to]);
        // first who has it, then who had it, as redis-cli does, and then who else decides
        let others = self.known(moving.to).into_iter().filter(|known| known.is_master && known.is_well);
        let others = others.map(|known| known.node).filter(|n| ![moving.from, moving.to].contains(n));
        for n in [moving.to, moving.from].into_iter().chain(others) {
            self.must(n, &["CLUSTER", "SETSLOT", &slot, "NODE", new]);
        }
        let knows = |n: &usize| {
            let known = self.known(*n);
            let of = |known: &Known| known.slots.iter().any(|range| range.contains(&moving.slot));
            known.iter().any(|known| known.node == moving.to && of(known))
        };
        eventually("everybody to know", async || self.reachable().iter().all(knows).then_some(())).await;
    }

    fn must(&self, n: usize, args: &[&str]) {
        let said = self.cli(n, args);
        assert_eq!(said, "OK", "{args:?}");
    }

    /// Holds up what goes between a master and its replica, but not the bus: the replica falls behind, and stays
    /// so when the master is killed. `heal` ends it.
    pub fn lag(&self, n: usize) {
        self.link(n, [self.replica_of(n)], [0], State::Held);
    }

    /// Waits until everyone that can be reached says the same and is linked.
    pub async fn settled(&self) {
        eventually("a settled cluster", async || self.is_settled().then_some(())).await;
    }

    fn is_settled(&self) -> bool {
        let nodes = self.reachable();
        let views: BTreeSet<String> = nodes.iter().map(|n| self.view(*n)).collect();
        views.len() == 1 && nodes.iter().all(|n| self.is_ok(*n) && self.is_linked(*n))
    }

    /// Who has what and who is well, as a node has it.
    fn view(&self, n: usize) -> String {
        let mut known: Vec<String> = self
            .known(n)
            .iter()
            .map(|known| format!("{} {} {} {:?}", known.node, known.is_master, known.is_well, known.slots))
            .collect();
        known.sort();
        known.join("\n")
    }

    fn is_ok(&self, n: usize) -> bool {
        let text = self.cli(n, &["CLUSTER", "INFO"]);
        text.contains("cluster_state:ok") && text.contains(&format!("cluster_slots_ok:{SLOTS}"))
    }

    /// A replica has its master, a master its replica where that one can be reached.
    fn is_linked(&self, n: usize) -> bool {
        let text = self.cli(n, &["info", "replication"]);
        match text.contains("role:master") {
            true => text.contains("state=online") || !self.reachable().contains(&self.replica_of(n)),
            false => text.contains("master_link_status:up"),
        }
    }

    fn known(&self, n: usize) -> Vec<Known> {
        let text = self.cli(n, &["CLUSTER", "NODES"]);
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let node = self.ids.iter().position(|id| *id == words[0])?;
            let flags: Vec<&str> = words[2].split(',').collect();
            let is_well = !flags.iter().any(|flag| flag.starts_with("fail"))
                && (words[7] == "connected" || flags.contains(&"myself"));
            // what is in brackets is on its way
            let slots = words[8..].iter().filter(|word| !word.starts_with('[')).map(|word| {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                first.parse().expect("a slot")..=last.parse().expect("a slot")
            });
            Some(Known { node, is_master: flags.contains(&"master"), is_well, slots: slots.collect() })
        };
        text.lines().filter_map(line).collect()
    }
}
