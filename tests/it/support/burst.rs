//! Publishers that count, and what the log makes of their counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use super::{Answer, Api, SseEvent, eventually_counts};

/// Several publishers at once; each publishes 0, 1, 2 … to one topic until it is not answered any more.
pub struct Burst {
    answered: Arc<AtomicU64>,
    publishers: Vec<JoinHandle<u64>>,
}

impl Burst {
    /// Starts them.
    pub fn start(api: &Api, topic: &str, publishers: u64) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let publish = |publisher| {
            let (api, topic, answered) = (api.clone(), topic.to_owned(), answered.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while let Ok(Answer { status: 202, .. }) =
                    Api::send(counted(&api, &topic, publisher, count)).await
                {
                    count += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                    assert!(count < 100_000, "nobody ended the burst");
                }
                count
            })
        };
        let publishers = (0..publishers).map(publish).collect();
        Burst { answered, publishers }
    }

    /// Waits until that many publishes have been answered.
    pub async fn reaches(&self, count: u64) {
        eventually_counts("answers to the burst", count, || self.answered.load(Ordering::Relaxed)).await;
    }

    /// How many publishes of each publisher were answered; returns when none of them goes on.
    pub async fn cut(self) -> Vec<u64> {
        let mut answered = Vec::new();
        for publisher in self.publishers {
            answered.push(publisher.await.expect("no panic"));
        }
        answered
    }
}

/// The publish of one count by one publisher.
pub fn counted(api: &Api, topic: &str, publisher: u64, count: u64) -> reqwest::RequestBuilder {
    let data = json!({"publisher": publisher, "count": count});
    api.request("POST", "/v2/events").json(&json!({"topic": topic, "type": "counted", "data": data}))
}

/// The counts of each publisher in the order in which they arrived.
pub fn counts(events: &[SseEvent], publishers: u64) -> Vec<Vec<u64>> {
    let mut counts = vec![Vec::new(); publishers as usize];
    for event in events.iter().filter(|event| event.event == "counted") {
        let data = &event.data["data"];
        let publisher = data["publisher"].as_u64().expect("a number") as usize;
        counts[publisher].push(data["count"].as_u64().expect("a number"));
    }
    counts
}

/// Every publisher's counts arrived once and in order: all that were answered, and at most the one that
/// was under way when it was cut off.
pub fn assert_kept(arrived: &[Vec<u64>], answered: &[u64]) {
    for (arrived, answered) in arrived.iter().zip(answered) {
        let dense: Vec<u64> = (0..arrived.len() as u64).collect();
        assert_eq!(*arrived, dense, "a gap, a repetition or another order");
        let kept = arrived.len() as u64;
        assert!(kept == *answered || kept == answered + 1, "{answered} were answered, {kept} are in the log");
    }
}
