//! A master and its replicas, watched by sentinels.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};

use super::gate::State;
use super::group::{Group, GroupOptions};
use crate::support::eventually;

/// Those that hold data; the first one is the master to begin with.
const SERVERS: Range<usize> = 0..3;

/// Those that watch them.
const SENTINELS: Range<usize> = 3..6;

/// By what name the sentinels know the master.
const SERVICE: &str = "bongsu";

/// A service under Redis Sentinel: servers 0 to 2 and sentinels 3 to 5; all killed when dropped.
pub struct Sentinels {
    group: Group,
}

impl Deref for Sentinels {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl DerefMut for Sentinels {
    fn deref_mut(&mut self) -> &mut Group {
        &mut self.group
    }
}

impl Sentinels {
    /// An empty one, in which everybody knows everybody.
    pub async fn start() -> Self {
        Self::with(GroupOptions::default()).await
    }

    /// With options.
    pub async fn with(options: GroupOptions) -> Self {
        // another process may have one of the addresses: then others
        for _ in 0..5 {
            let group = Group::reserve(&options, 6, 1, &SENTINELS.collect::<Vec<_>>());
            let mut own = Sentinels { group };
            if own.launch_all().await {
                own.settled().await;
                return own;
            }
        }
        panic!("Redis did not start");
    }

    async fn launch_all(&mut self) -> bool {
        let master = self.address(0);
        for n in SERVERS {
            let mut lines = self.data(n);
            lines.extend((n > 0).then(|| format!("replicaof {} {}", self.host(0), master.port())));
            self.write(n, "redis.conf", &lines);
            if !self.launch(n).await {
                return false;
            }
        }
        // what the sentinels hear first of the master is then the whole of it
        let linked = async || (self.replicas_of(0) == SERVERS.len() - 1).then_some(());
        eventually("the replicas to be linked", linked).await;
        for n in SENTINELS {
            self.write(n, "redis.conf", &self.sentinel(n));
            if !self.launch(n).await {
                return false;
            }
            self.hasten(n);
        }
        true
    }

    fn sentinel(&self, n: usize) -> Vec<String> {
        let (own, master) = (self.address(n), self.address(0));
        let words = if self.is_named() { "yes" } else { "no" };
        let mut lines = self.common(n);
        lines.extend([
            format!("sentinel resolve-hostnames {words}"),
            format!("sentinel announce-hostnames {words}"),
            format!("sentinel announce-ip {}", self.host(n)),
            format!("sentinel announce-port {}", own.port()),
            format!("sentinel monitor {SERVICE} {} {} 2", self.host(0), master.port()),
            format!("sentinel down-after-milliseconds {SERVICE} {}", self.timeout().as_millis()),
            // also half of how long a sentinel waits before it tries what has failed once more
            format!("sentinel failover-timeout {SERVICE} 2000"),
            format!("sentinel parallel-syncs {SERVICE} 1"),
        ]);
        if let Some((name, password)) = &self.access().user {
            lines.extend([
                format!("sentinel auth-user {SERVICE} {name}"),
                format!("sentinel auth-pass {SERVICE} {password}"),
                format!("sentinel sentinel-user {name}"),
                format!("sentinel sentinel-pass {password}"),
            ]);
        }
        lines
    }

    /// Has a sentinel ask and tell every half second what it otherwise does every ten and two, and ping more often
    /// than every second: else the first ping comes when a new master already counts as down.
    fn hasten(&self, n: usize) {
        let set = self.cli(
            n,
            &["SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "500", "PING-PERIOD", "250"],
        );
        assert_eq!(set, "OK");
    }

    /// The URL of the service, by its sentinels.
    pub fn url(&self) -> String {
        let sentinels = SENTINELS.map(|n| self.host_and_port(n));
        format!("{}/{SERVICE}", self.access().url("sentinel", sentinels))
    }

    /// The server that all sentinels name which can be asked.
    pub async fn master(&self) -> usize {
        eventually("sentinels that agree", async || self.named()).await
    }

    /// The master after `old`, once all sentinels name it and it says so itself.
    pub async fn new_master(&self, old: usize) -> usize {
        let named = async || self.named().filter(|new| *new != old && self.is_master(*new));
        eventually("another master", named).await
    }

    /// Has the sentinels make another one the master, at their leisure; that one.
    pub async fn failover(&self) -> usize {
        let old = self.master().await;
        let sentinel = self.sentinels()[0];
        let asked = async || (self.cli(sentinel, &["SENTINEL", "FAILOVER", SERVICE]) == "OK").then_some(());
        eventually("a sentinel to begin a failover", asked).await;
        self.new_master(old).await
    }

    /// Starts one again, empty: a server is what its file and then the sentinels make of it.
    pub async fn restart(&mut self, n: usize) {
        assert!(self.launch(n).await, "the addresses are still ours");
        if SENTINELS.contains(&n) {
            self.hasten(n);
        }
    }

    /// Holds up what goes between this server and the other ones, but not the sentinels: replicas fall behind,
    /// and stay so when it is killed. `heal` ends it.
    pub fn lag(&self, n: usize) {
        self.link(n, SERVERS, [0], State::Held);
    }

    /// Waits until everyone that can be reached is as it should be, and known to be so.
    pub async fn settled(&self) {
        eventually("a settled group", async || self.is_settled().then_some(())).await;
    }

    fn is_settled(&self) -> bool {
        let Some(master) = self.named() else { return false };
        let (servers, sentinels) = (self.servers().len(), self.sentinels());
        let host = self.host(master);
        let replica = |known: &BTreeMap<String, String>| {
            known["flags"] == "slave" && known["master-link-status"] == "ok" && known["master-host"] == host
        };
        self.is_master(master)
            && self.replicas_of(master) == servers - 1
            && sentinels.iter().all(|n| {
                let of = |what| self.known(*n, what);
                of("MASTER").iter().all(|known| known["flags"] == "master")
                    && of("REPLICAS").iter().filter(|known| replica(known)).count() == servers - 1
                    && of("SENTINELS").iter().filter(|known| known["flags"] == "sentinel").count()
                        == sentinels.len() - 1
            })
    }

    /// What a sentinel knows of the master, the replicas or the other sentinels.
    fn known(&self, sentinel: usize, what: &str) -> Vec<BTreeMap<String, String>> {
        let text = self.cli(sentinel, &["SENTINEL", what, SERVICE]);
        let lines: Vec<&str> = text.lines().collect();
        let mut known: Vec<BTreeMap<String, String>> = Vec::new();
        for pair in lines.chunks(2) {
            let (name, value) = (pair[0], pair.get(1).copied().unwrap_or_default());
            if name == "name" {
                known.push(BTreeMap::new());
            }
            known.last_mut().expect("a name comes first").insert(name.to_owned(), value.to_owned());
        }
        known
    }

    fn named(&self) -> Option<usize> {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let named = |n: &usize| self.at(self.cli(*n, &ask).lines().next()?);
        let named: Vec<Option<usize>> = self.sentinels().iter().map(named).collect();
        named[0].filter(|first| named.iter().all(|own| own.is_some_and(|own| own == *first)))
    }

    fn is_master(&self, n: usize) -> bool {
        self.info(n, "replication", "role") == "master"
    }

    fn replicas_of(&self, n: usize) -> usize {
        self.cli(n, &["info", "replication"]).matches("state=online").count()
    }

    fn servers(&self) -> Vec<usize> {
        self.reachable().into_iter().filter(|n| SERVERS.contains(n)).collect()
    }

    fn sentinels(&self) -> Vec<usize> {
        self.reachable().into_iter().filter(|n| SENTINELS.contains(n)).collect()
    }
}
