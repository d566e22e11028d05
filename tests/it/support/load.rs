//! What goes on while something breaks: commands, publishes, and those who listen.

use std::collections::HashSet;
use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::seq;
use super::{Api, PATIENCE, Sse, counted, eventually_counts, eventually_or, pause};

/// Reports a fleet's intensity again and again, each time answered; how often, at the end.
pub struct Reports {
    stop: watch::Sender<bool>,
    count: watch::Receiver<i64>,
    task: JoinHandle<()>,
}

impl Reports {
    /// Begins.
    pub fn start(api: Api, fleet: &'static str) -> Self {
        Self::repeat(move |_| {
            let api = api.clone();
            async move { api.update_ei(fleet, 1.0).await }
        })
    }

    /// Begins where nodes come and go: each with a key, again until it is answered.
    pub fn start_again(api: Api, fleet: &'static str) -> Self {
        let body = json!({"fleet_id": fleet, "new_ei": 1.0});
        Self::repeat(move |n| {
            let (api, body) = (api.clone(), body.clone());
            async move { api.post_until_done("/v2/fleet/ei-update", &body, &format!("report-{n}")).await }
        })
    }

    fn repeat<F>(report: impl Fn(i64) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Value> + Send,
    {
        let (stop, stopped) = watch::channel(false);
        let (counted, count) = watch::channel(0);
        let task = tokio::spawn(async move {
            for n in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let updated = report(n).await;
                counted.send_replace(updated["version"].as_i64().expect("a version"));
                pause(Duration::from_millis(5)).await;
            }
        });
        Reports { stop, count, task }
    }

    /// The version that was answered last.
    pub fn count(&self) -> i64 {
        *self.count.borrow()
    }

    /// Waits until so many are answered.
    pub async fn reaches(&self, count: i64) {
        eventually_counts("reports that are answered", count as u64, || self.count() as u64).await;
    }

    /// Ends it; the last version.
    pub async fn stop(self) -> i64 {
        self.stop.send(true).expect("it reports");
        self.task.await.expect("all were answered");
        *self.count.borrow()
    }
}

/// Publishes 0, 1, 2 … to a topic, each again with its key until it is answered.
pub struct Publishing {
    stop: watch::Sender<bool>,
    answered: watch::Receiver<u64>,
    task: JoinHandle<Published>,
}

/// What became of all that was published.
#[derive(Debug, Default)]
pub struct Published {
    /// When each count was answered, and with which position.
    pub answers: Vec<(Instant, String)>,
    /// How many times one was not.
    pub refused: u64,
}

impl Published {
    /// How many were answered.
    pub fn count(&self) -> u64 {
        self.answers.len() as u64
    }

    /// The longest time from then on that nothing was answered.
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let times = self.answers.iter().map(|(at, _)| *at).filter(|at| *at > since);
        let (mut former, mut longest) = (since, Duration::ZERO);
        for at in times {
            longest = longest.max(at - former);
            former = at;
        }
        longest
    }
}

impl Publishing {
    /// Begins.
    pub fn start(api: Api, topic: &'static str) -> Self {
        Self::spaced(api, topic, Duration::from_millis(5))
    }

    /// With so much time between an answer and the next one.
    pub fn spaced(api: Api, topic: &'static str, time: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (told, answered) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut published = Published::default();
            while !*stopped.borrow() {
                let count = published.count();
                let request = counted(&api, topic, 0, count).header("Idempotency-Key", format!("n{count}"));
                match Api::send(request).await {
                    Ok(answer) if answer.status == 202 => {
                        let position = answer.json()["position"].as_str().expect("a position").to_owned();
                        published.answers.push((Instant::now(), position));
                        told.send_replace(published.count());
                    }
                    Ok(answer) if answer.status != 503 => panic!("answered {}", answer.status),
                    _ => published.refused += 1,
                }
                pause(time).await;
            }
            published
        });
        Publishing { stop, answered, task }
    }

    /// Waits until so many are answered.
    pub async fn reaches(&self, count: u64) {
        eventually_counts("publishes that are answered", count, || *self.answered.borrow()).await;
    }

    /// Waits until more are answered.
    pub async fn goes_on(&self) {
        let reached = *self.answered.borrow();
        self.reaches(reached + 20).await;
    }

    /// Ends it; what was published.
    pub async fn stop(self) -> Published {
        self.stop.send(true).expect("it publishes");
        self.task.await.expect("no panic")
    }
}

/// Everything that comes until a count has come: dense from 0, each once and in order, without another `ready`.
pub async fn assert_dense(stream: &mut Sse, up_to: u64) {
    for count in 0..up_to {
        let event = loop {
            let event = stream.next().await.expect("the stream stays open");
            assert!(!["ready", "close"].contains(&event.event.as_str()), "{event:?}");
            if event.event == "counted" {
                break event;
            }
        };
        assert_eq!(event.data["data"]["count"], count, "a gap, a repetition or another order");
    }
}

/// Keeps a copy of a fleet, and hears what is counted on a topic, as a client does that is told when it has to load again;
/// a version that is missing without that, or a position that comes twice or out of order, ends the test.
pub struct Copying {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// What a copy has come to.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Version of the fleet.
    pub version: i64,
    /// When it was told to load again.
    pub told: Vec<Instant>,
    /// Every position that came, in order.
    pub positions: Vec<String>,
    /// Every count that came.
    pub counts: HashSet<u64>,
}

impl Copying {
    /// Listens at `api`, on whose node alone it depends, to a fleet and a topic.
    pub async fn start(api: Api, fleet: &'static str, topic: &'static str) -> Self {
        let mut stream = api.listen(&format!("fleet:{fleet},{topic}"), None).await;
        stream.ready().await;
        let (tell, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            loop {
                let event = stream.next().await.expect("the stream stays open");
                match event.event.as_str() {
                    "ready" => {
                        assert_eq!(event.data["recovered"], false, "{event:?}");
                        let told = Instant::now();
                        let version = load(&api, fleet).await;
                        tell.send_modify(|own| {
                            own.told.push(told);
                            own.version = version;
                        });
                    }
                    "close" => panic!("{event:?}"),
                    _ if event.is_control() => {}
                    _ => tell.send_modify(|own| own.take(&event)),
                }
            }
        });
        Copying { seen, task }
    }

    /// What it has come to, once it has the fleet in this version, and everything that was answered after it was last told
    /// to load again.
    pub async fn reaches(&self, version: i64, published: &Published) -> Seen {
        let complete = async || {
            assert!(!self.task.is_finished(), "a copy went wrong");
            let seen = self.seen.borrow();
            (seen.version >= version && seen.lacks(published).is_empty()).then(|| seen.clone())
        };
        let what = || {
            let seen = self.seen.borrow();
            format!("version {version} after {}, and counts {:?}", seen.version, seen.lacks(published))
        };
        let seen = eventually_or(what, complete).await;
        assert_eq!(seen.version, version);
        seen
    }
}

impl Seen {
    /// What was answered after it was last told to load again, and did not come, neither then nor before: an answer may take
    /// longer than its event.
    fn lacks(&self, published: &Published) -> Vec<u64> {
        let since = self.told.last();
        let later = (0..).zip(&published.answers).filter(|(_, (at, _))| since.is_none_or(|told| at > told));
        later.map(|(count, _)| count).filter(|count| !self.counts.contains(count)).collect()
    }

    fn take(&mut self, event: &super::SseEvent) {
        let position = event.id.clone().expect("a position");
        if let Some(former) = self.positions.last().filter(|own| own[..16] == position[..16]) {
            assert!(seq(&position) > seq(former), "{position} after {former}");
        } else {
            let is_new = self.positions.iter().all(|own| own[..16] != position[..16]);
            assert!(is_new, "a run that had ended goes on at {position}");
        }
        self.positions.push(position);
        let data = &event.data["data"];
        self.counts.extend(data["count"].as_u64());
        if let Some(version) = data["version"].as_i64() {
            assert!(version <= self.version + 1, "{version} after {}: nobody told of a gap", self.version);
            self.version = self.version.max(version);
        }
    }
}

/// The version of a fleet as it is at present; 0 before there is one.
async fn load(api: &Api, fleet: &str) -> i64 {
    let loaded = async {
        loop {
            match api.get(&format!("/v2/fleets/{fleet}")).await {
                answer if answer.status == 200 => {
                    return answer.json()["version"].as_i64().expect("a version");
                }
                answer if answer.status == 404 => return 0,
                _ => pause(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, loaded).await.expect("the fleet can be read")
}
