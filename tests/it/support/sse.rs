//! A client of server-sent events that shows everything it gets.

use std::collections::VecDeque;

use bongsu::wire::SseDecoder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;

use super::PATIENCE;

/// One event as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct SseEvent {
    /// Its name.
    pub event: String,
    /// The last id seen on the stream.
    pub id: Option<String>,
    /// Its data, parsed.
    pub data: Value,
}

impl SseEvent {
    /// Whether it is one of the stream's own.
    pub fn is_control(&self) -> bool {
        matches!(self.event.as_str(), "ready" | "heartbeat" | "position" | "close")
    }
}

/// An open stream.
pub struct Sse {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    decoder: SseDecoder,
    waiting: VecDeque<SseEvent>,
    /// The response's headers.
    pub headers: reqwest::header::HeaderMap,
    /// The last id seen: where a reconnect would resume.
    pub cursor: Option<String>,
    /// Reconnection delay last told, milliseconds.
    pub retry_ms: Option<u64>,
}

impl Sse {
    /// Sends the request; panics unless the answer is a stream.
    pub async fn open(request: reqwest::RequestBuilder) -> Self {
        Self::of(request.send().await.expect("an answer")).await
    }

    /// The stream that an answer is; panics unless it is one.
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        if status != 200 {
            panic!("no stream but {status}: {}", response.text().await.unwrap_or_default());
        }
        assert_eq!(headers["content-type"], "text/event-stream");
        let bytes = response.bytes_stream().boxed();
        Sse {
            bytes,
            decoder: SseDecoder::default(),
            waiting: VecDeque::new(),
            headers,
            cursor: None,
            retry_ms: None,
        }
    }

    /// The next event of any kind; None at the stream's end (or its break).
    pub async fn next(&mut self) -> Option<SseEvent> {
        let next = async {
            while self.waiting.is_empty() {
                let piece = self.bytes.next().await?.ok()?;
                for message in self.decoder.feed(&piece) {
                    let data = serde_json::from_str(&message.data).expect("data is JSON");
                    self.retry_ms = message.retry_ms.or(self.retry_ms);
                    self.waiting.push_back(SseEvent { event: message.event, id: message.id, data });
                }
            }
            self.waiting.pop_front()
        };
        let event = tokio::time::timeout(PATIENCE, next).await.expect("an event in time");
        if let Some(id) = event.as_ref().and_then(|event| event.id.clone()) {
            self.cursor = Some(id);
        }
        event
    }

    /// The next event, which has to be called `name`.
    pub async fn expect(&mut self, name: &str) -> SseEvent {
        let event = self.next().await.unwrap_or_else(|| panic!("{name} before the stream's end"));
        assert_eq!(event.event, name, "{event:?}");
        event
    }

    /// The data of the `ready` event, which has to be next.
    pub async fn ready(&mut self) -> Value {
        self.expect("ready").await.data
    }

    /// The next `count` events that are not the stream's own.
    pub async fn take(&mut self, count: usize) -> Vec<SseEvent> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let event =
                self.next().await.unwrap_or_else(|| panic!("{count} events, ended after {}", events.len()));
            if !event.is_control() {
                events.push(event);
            }
        }
        events
    }

    /// Everything up to the `position` event that ends a replay, without it.
    pub async fn replayed(&mut self) -> Vec<SseEvent> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.expect("the end of the replay");
            match event.event.as_str() {
                "position" => return events,
                _ => events.push(event),
            }
        }
    }

    /// Everything up to the stream's end.
    pub async fn rest(&mut self) -> Vec<SseEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
