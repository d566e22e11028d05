//! What becomes of a master, whatever kind of Redis it is one of.

use std::ops::DerefMut;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::Stage;
use crate::support::redis::{Group, RedisCluster, Sentinels};
use crate::support::{Server, ServerOptions, Sse, eventually};

/// A Redis whose masters have successors, as far as the tenant is concerned that everything happens in.
pub(super) trait Masters: DerefMut<Target = Group> {
    fn url(&self) -> String;
    /// Who has the tenant's log.
    async fn master(&self) -> usize;
    /// Waits until another one has it, all by itself.
    async fn succeeded(&self, master: usize);
    /// Has another one take it over in order; that one.
    async fn hand_over(&self) -> usize;
    /// Waits until all that are there are as they should be.
    async fn settled(&self);
    /// Its replicas fall behind, and stay so when it is killed.
    fn lag(&self, n: usize);
}

impl Masters for Sentinels {
    fn url(&self) -> String {
        self.url()
    }
    async fn master(&self) -> usize {
        self.master().await
    }
    async fn succeeded(&self, master: usize) {
        self.new_master(master).await;
    }
    async fn hand_over(&self) -> usize {
        self.failover().await
    }
    async fn settled(&self) {
        self.settled().await;
    }
    fn lag(&self, n: usize) {
        self.lag(n);
    }
}

impl Masters for RedisCluster {
    fn url(&self) -> String {
        self.url()
    }
    async fn master(&self) -> usize {
        self.owner(self.slot("{default}"))
    }
    async fn succeeded(&self, master: usize) {
        self.failover_by_itself(master).await;
    }
    async fn hand_over(&self) -> usize {
        self.failover(self.owner(self.slot("{default}"))).await
    }
    async fn settled(&self) {
        self.settled().await;
    }
    fn lag(&self, n: usize) {
        self.lag(n);
    }
}

/// Killed with -9 while publishing.
pub(super) async fn killed(what: &str, redis: impl Masters) {
    killed_on(Stage::on(redis.url()).await, what, redis).await;
}

/// The same, on a stage that stands.
pub(super) async fn killed_on(stage: Stage, what: &str, mut redis: impl Masters) {
    let (old, fault) = (redis.master().await, Instant::now());
    redis.kill(old);
    redis.succeeded(old).await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    assert!(played.published.refused > 0, "the fault has happened");
    played.report(&format!("{what}, master killed"), fault);
}

/// Killed with -9 when its replicas do not have what it took last.
pub(super) async fn killed_before_its_replicas_have_it_all(what: &str, mut redis: impl Masters) {
    let stage = Stage::on(redis.url()).await;
    let old = redis.master().await;
    redis.lag(old);
    stage.goes_on().await;
    let fault = Instant::now();
    redis.kill(old);
    redis.succeeded(old).await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    played.report(&format!("{what}, master killed, replicas behind"), fault);
}

/// Hands over in order, until the first one is the master again.
pub(super) async fn handed_over_there_and_back(what: &str, redis: impl Masters) {
    let stage = Stage::on(redis.url()).await;
    let (first, fault) = (redis.master().await, Instant::now());
    let (mut master, mut times) = (redis.hand_over().await, 1);
    stage.goes_on().await;
    while master != first {
        redis.settled().await;
        master = redis.hand_over().await;
        stage.goes_on().await;
        times += 1;
    }
    let played = stage.end().await;
    played.assert_told(times);
    played.report(&format!("{what}, handed over"), fault);
}

/// Cut off from the others while it goes on answering its clients, and back later on.
pub(super) async fn cut_off(what: &str, mut redis: impl Masters) {
    let stage = Stage::on(redis.url()).await;
    let (old, fault) = (redis.master().await, Instant::now());
    redis.isolate(old);
    redis.succeeded(old).await;
    stage.goes_on().await;
    redis.heal(old);
    redis.settled().await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    played.report(&format!("{what}, master cut off"), fault);
}

/// Killed with -9 while nobody says anything.
pub(super) async fn killed_in_silence(mut redis: impl Masters) {
    let listening = Listening::to(redis.url()).await;
    let old = redis.master().await;
    redis.kill(old);
    redis.succeeded(old).await;
    listening.goes_on().await;
}

/// Somebody who listens, and nobody who says anything: only who listens can notice that its master has a successor.
pub(super) struct Listening {
    server: Server,
    stream: Sse,
}

impl Listening {
    pub async fn to(url: String) -> Self {
        let server = Server::with(ServerOptions::default().cluster(2).unlimited().env("REDIS_URL", url));
        let mut stream = server.api().at(0).listen("topic:v", None).await;
        stream.ready().await;
        Listening { server, stream }
    }

    /// Hears what is said at the other node from now on, by the subscription itself: nothing else brings what is not logged.
    pub async fn goes_on(mut self) {
        let event = json!({"topic": "topic:v", "type": "v", "class": "volatile", "data": {}});
        eventually("an event from the successor", async || {
            self.server.api().at(1).post("/v2/events", &event).await;
            let heard = timeout(Duration::from_millis(200), self.stream.next()).await;
            heard.is_ok_and(|event| event.expect("the stream stays open").event == "v").then_some(())
        })
        .await;
    }
}
