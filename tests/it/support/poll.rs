//! A long-poll client: one answer after the other, each from where the last one got to.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Answer, Api, PATIENCE};

/// Where a poller stands.
pub struct Poller {
    api: Api,
    topics: String,
    /// The last answer's cursor.
    pub cursor: Option<String>,
}

impl Poller {
    /// One that has not asked yet.
    pub fn new(api: &Api, topics: &str, cursor: Option<&str>) -> Self {
        Poller { api: api.clone(), topics: topics.to_owned(), cursor: cursor.map(str::to_owned) }
    }

    /// The next request; `more` is added to its parameters.
    pub fn request(&self, wait: u64, more: &str) -> reqwest::RequestBuilder {
        let path = format!("/v2/realtime/poll?topics={}&wait={wait}{more}", self.topics);
        let cursor = self.cursor.iter().map(|cursor| {
            let encoded = utf8_percent_encode(cursor, NON_ALPHANUMERIC);
            format!("&cursor={encoded}")
        });
        self.api.request("GET", &cursor.fold(path, |path, cursor| path + &cursor))
    }

    /// The next answer, whatever its status; None when nobody answers.
    pub async fn try_ask(&mut self, wait: u64) -> Option<Answer> {
        let answer = tokio::time::timeout(PATIENCE, Api::send(self.request(wait, ""))).await;
        let answer = answer.expect("an answer in time").ok()?;
        if answer.status == 200 {
            let cursor = answer.json()["cursor"].as_str().map(str::to_owned);
            self.cursor = cursor.or(self.cursor.take());
        }
        Some(answer)
    }

    /// The next answer.
    pub async fn ask(&mut self, wait: u64) -> Value {
        self.try_ask(wait).await.expect("an answer").expect(200)
    }
}
