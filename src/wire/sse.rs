//! Server-sent events (WHATWG HTML, "Server-sent events"): frames out, and the reader that `tail` uses.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::Position;

/// `event`, `id` and `data`, each on one line; none of them can hold a line break.
pub(super) fn event_frame(name: &str, id: Option<Position>, data: &str) -> Bytes {
    debug_assert!(!name.contains(['\r', '\n']) && !data.contains(['\r', '\n']));
    let mut frame = String::with_capacity(name.len() + data.len() + 64);
    let _ = writeln!(frame, "event: {name}");
    body(frame, id, data)
}

/// The same without a name, which is `message` to an EventSource.
pub(super) fn unnamed_frame(id: Option<Position>, data: &str) -> Bytes {
    debug_assert!(!data.contains(['\r', '\n']));
    body(String::with_capacity(data.len() + 48), id, data)
}

fn body(mut frame: String, id: Option<Position>, data: &str) -> Bytes {
    if let Some(id) = id {
        let _ = writeln!(frame, "id: {id}");
    }
    let _ = write!(frame, "data: {data}\n\n");
    frame.into()
}

/// The first bytes of a stream: how long to wait before reconnecting, and a comment.
pub fn retry_frame(retry: Duration) -> Bytes {
    format!("retry: {}\n: bongsu\n\n", retry.as_millis()).into()
}

/// One event as a reader of a stream sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseMessage {
    /// The event's name; `message` when the stream gave none.
    pub event: String,
    /// The last id seen on the stream, if any.
    pub id: Option<String>,
    /// The data lines, joined by line feeds.
    pub data: String,
    /// A new reconnection delay that came with it, milliseconds.
    pub retry_ms: Option<u64>,
}

/// Reads a stream piece by piece, however it was cut.
#[derive(Debug, Default)]
pub struct SseDecoder {
    buffer: Vec<u8>,
    current: SseMessage,
    has_data: bool,
}

impl SseDecoder {
    /// Takes the next piece and returns the messages that it completed.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<SseMessage> {
        self.buffer.extend_from_slice(piece);
        let mut messages = Vec::new();
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[start..start + length]).into_owned();
            start += length + 1;
            messages.extend(self.line(line.trim_end_matches('\r')));
        }
        self.buffer.drain(..start);
        messages
    }

    fn line(&mut self, line: &str) -> Option<SseMessage> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.current.event = value.to_owned(),
            "id" => self.current.id = Some(value.to_owned()),
            "retry" => self.current.retry_ms = value.parse().ok(),
            "data" => {
                if self.has_data {
                    self.current.data.push('\n');
                }
                self.current.data.push_str(value);
                self.has_data = true;
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseMessage> {
        let next = SseMessage { id: self.current.id.clone(), ..SseMessage::default() };
        if !std::mem::take(&mut self.has_data) {
            self.current.event.clear();
            return None;
        }
        let mut message = std::mem::replace(&mut self.current, next);
        if message.event.is_empty() {
            message.event = "message".to_owned();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Epoch;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stream_reads_the_same_however_it_is_cut(cuts in prop::collection::vec(1usize..40, 1..60)) {
            let position = Position { epoch: Epoch::new(7), seq: 3 };
            let mut bytes = retry_frame(Duration::from_secs(1)).to_vec();
            bytes.extend_from_slice(&event_frame("tick", Some(position), "{\"ü\":1}"));
            bytes.extend_from_slice(b"data: two\r\ndata: lines\r\n\r\n");
            let whole = SseDecoder::default().feed(&bytes);
            prop_assert_eq!(whole.len(), 2);
            prop_assert_eq!(&whole[0].event, "tick");
            prop_assert_eq!(&whole[1].data, "two\nlines");
            prop_assert_eq!(whole[1].id.as_deref(), Some("0000000000000007-3"));
            let mut decoder = SseDecoder::default();
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().cycle() {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.extend(decoder.feed(piece));
                rest = tail;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(pieces, whole);
        }
    }
}
