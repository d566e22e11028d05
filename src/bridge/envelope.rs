//! What travels between the nodes: entries of the log, and the messages that carry them live.
//!
//! A live message is a sequence of netstrings (<https://cr.yp.to/proto/netstrings.txt>): the version that wrote it, the
//! oldest one that can read it, how many fields an entry has, and the epoch; then the fields of each entry: its number
//! (empty: never logged), the event object, when it was appended and when it expires in µs, its class, what everybody may
//! see of it, its origin, and the µs between its acceptance and its append. Fields that later versions add are passed over,
//! and those that earlier ones did not have are empty.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::release::{ADDED, SINCE, VERSION};
use crate::domain::{Class, Epoch, EventName, Origin, Position, Timestamp, Topic};
use crate::log::NodeNotice;
use crate::wire::{Content, Event, EventParts};

/// Fields of an entry that every release writes, those that this one knows, and those that there may be.
const LEAST_FIELDS: usize = 8;
const FIELDS: usize = LEAST_FIELDS + ADDED.len();
const MOST_FIELDS: usize = 64;
const TICKET_REPLACED: &[u8] = b"ticket_replaced";
const OUTBOX_FILLED: &[u8] = b"outbox_filled";

/// A message of a tenant's live channel.
#[derive(Debug)]
pub(super) struct Live {
    pub epoch: Epoch,
    /// In the order of their numbers; volatile ones have none.
    pub entries: Vec<Entry>,
}

/// An entry of the log, or a volatile event, on its way to this node.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// 0 when it is volatile.
    pub seq: u64,
    object: Box<str>,
    at: Timestamp,
    expires_at: Option<Timestamp>,
    class: Class,
    public: Option<Box<str>>,
    origin: Option<Box<str>>,
    /// How long it had waited for its append, where that is known.
    waited: Option<Duration>,
}

/// The event object, as its entry holds it.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    key: Option<String>,
    version: Option<i64>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The bytes are not what this release's nodes write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub(super) struct Malformed;

impl Live {
    /// The message; None where only later releases can read it.
    pub fn read(mut bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        if !is_readable(&mut bytes)? {
            return Ok(None);
        }
        let count: usize = number(netstring(&mut bytes)?)?;
        if !(LEAST_FIELDS..=MOST_FIELDS).contains(&count) {
            return Err(Malformed);
        }
        let epoch = text(netstring(&mut bytes)?)?.parse().map_err(|_| Malformed)?;
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let mut fields = [&[][..]; FIELDS];
            for index in 0..count {
                let field = netstring(&mut bytes)?;
                if let Some(own) = fields.get_mut(index) {
                    *own = field;
                }
            }
            entries.push(Entry::read(&fields)?);
        }
        Ok(Some(Live { epoch, entries }))
    }
}

/// Whether this release reads a message that begins with these versions; takes them off.
fn is_readable(bytes: &mut &[u8]) -> Result<bool, Malformed> {
    let (_version, since): (u32, u32) = (number(netstring(bytes)?)?, number(netstring(bytes)?)?);
    Ok(since <= VERSION)
}

/// A message of the channel on which nodes tell each other what is no event: the two versions, what it is, and what
/// that needs, as netstrings.
pub(super) fn write_notice(notice: &NodeNotice) -> Vec<u8> {
    let parts = match notice {
        NodeNotice::TicketReplaced { ticket_id, newer } => {
            vec![TICKET_REPLACED.to_vec(), ticket_id.as_bytes().to_vec(), newer.to_string().into_bytes()]
        }
        NodeNotice::OutboxFilled => vec![OUTBOX_FILLED.to_vec()],
    };
    let versions = [VERSION, SINCE].map(|own| own.to_string().into_bytes());
    let parts = versions.into_iter().chain(parts);
    parts.flat_map(|part| [format!("{}:", part.len()).as_bytes(), &part, b","].concat()).collect()
}

/// The notice; None where it is one that only later releases know.
pub(super) fn read_notice(mut bytes: &[u8]) -> Result<Option<NodeNotice>, Malformed> {
    if !is_readable(&mut bytes)? {
        return Ok(None);
    }
    match netstring(&mut bytes)? {
        TICKET_REPLACED => {
            let ticket_id = text(netstring(&mut bytes)?)?.into();
            Ok(Some(NodeNotice::TicketReplaced { ticket_id, newer: number(netstring(&mut bytes)?)? }))
        }
        OUTBOX_FILLED => Ok(Some(NodeNotice::OutboxFilled)),
        _ => Ok(None),
    }
}

impl Entry {
    /// From its fields, in their order; those after the origin may be missing.
    pub fn read(fields: &[&[u8]]) -> Result<Self, Malformed> {
        let [seq, object, at, expires, class, public, origin, rest @ ..] = fields else {
            return Err(Malformed);
        };
        let optional = |field: &[u8]| Ok((!field.is_empty()).then_some(text(field)?.into()));
        let waited = rest.first().map(|field| number(field)).transpose()?;
        Ok(Entry {
            seq: if seq.is_empty() { 0 } else { number(seq)? },
            object: text(object)?.into(),
            at: Timestamp::from_micros(number(at)?),
            expires_at: match expires.is_empty() {
                true => None,
                false => Some(Timestamp::from_micros(number(expires)?)),
            },
            class: Class::parse(text(class)?).ok_or(Malformed)?,
            public: optional(public)?,
            origin: optional(origin)?,
            waited: waited.map(Duration::from_micros),
        })
    }

    /// The event, with what is known of its age at `now`, the present moment on the log's clock.
    pub fn event(&self, epoch: Epoch, now: Timestamp) -> Result<Event, Malformed> {
        let object: Object<'_> = serde_json::from_str(&self.object).map_err(|_| Malformed)?;
        let event = Event::new(EventParts {
            position: (self.seq > 0).then_some(Position { epoch, seq: self.seq }),
            topic: Topic::parse(&object.topic).map_err(|_| Malformed)?,
            name: EventName::trusted(&object.event),
            class: self.class,
            key: object.key.map(String::into_boxed_str),
            version: object.version,
            at: self.at,
            expires_at: self.expires_at,
            full: Content::new(object.data.get()),
            public: self.public.as_deref().map(Content::new),
        });
        let Some(waited) = self.waited else { return Ok(event) };
        let (age, present) = (now.since(self.at) + waited, Instant::now());
        let origin = self.origin.as_deref().and_then(Origin::parse).map(Arc::new);
        Ok(event.of(origin, present.checked_sub(age).unwrap_or(present)))
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, Malformed> {
    text(bytes)?.parse().map_err(|_| Malformed)
}

/// Takes the first netstring off.
fn netstring<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let colon = bytes.iter().take(11).position(|byte| *byte == b':').ok_or(Malformed)?;
    let length: usize = number(&bytes[..colon])?;
    let rest = &bytes[colon + 1..];
    if rest.len() <= length || rest[length] != b',' {
        return Err(Malformed);
    }
    *bytes = &rest[length + 1..];
    Ok(&rest[..length])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry with nothing remarkable but its number.
    pub fn entry(seq: u64) -> Entry {
        let object = r#"{"event":"tick","topic":"topic:a","ts":"","data":{"n":1.50}}"#;
        let seq = seq.to_string();
        Entry::read(&[seq.as_bytes(), object.as_bytes(), b"7", b"", b"durable", b"", b""]).unwrap()
    }

    /// What comes before the entries.
    const HEAD: [&[u8]; 4] = [b"1", b"1", b"8", b"00000000000000ab"];

    fn message(parts: &[&[u8]]) -> Vec<u8> {
        let written = |part: &&[u8]| [part.len().to_string().as_bytes(), b":", part, b","].concat();
        parts.iter().flat_map(written).collect()
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let object = br#"{"event":"tick","topic":"topic:a","id":"x-1","ts":"t","data":{"n":1.50},"key":"k","version":-3}"#;
        let own: [&[u8]; LEAST_FIELDS] = [b"12", object, b"1000", b"2000", b"latest", b"{}", b"", b"30"];
        let bytes = message(&[&HEAD[..], &own].concat());
        let live = Live::read(&bytes).unwrap().expect("of this release");
        assert_eq!((live.epoch, live.entries.len()), (Epoch::new(0xab), 1));
        let event = live.entries[0].event(live.epoch, Timestamp::from_micros(1000)).unwrap();
        let parts = event.parts();
        assert_eq!((event.seq(), parts.key.as_deref(), parts.version), (12, Some("k"), Some(-3)));
        assert_eq!((parts.full.data(), parts.public.as_ref().unwrap().data()), (r#"{"n":1.50}"#, "{}"));
        assert!(event.is_expired(Timestamp::from_micros(2000)) && event.age() >= Duration::from_micros(30));
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over_and_what_only_it_can_read_is_not_read() {
        let entry: [&[u8]; LEAST_FIELDS] = [b"1", b"{}", b"1", b"", b"durable", b"", b"", b"2"];
        let of =
            |version: &'static [u8], since: &'static [u8], count: &'static [u8], added: &[&'static [u8]]| {
                let head: [&[u8]; 4] = [version, since, count, b"00000000000000ab"];
                let entries = [&entry[..], added, &entry[..], added].concat();
                let read = Live::read(&message(&[&head[..], &entries].concat()));
                read.map(|live| live.map(|live| live.entries.len()))
            };
        assert_eq!(of(b"1", b"1", b"8", &[]), Ok(Some(2)));
        assert_eq!(of(b"2", b"1", b"10", &[b"more", b""]), Ok(Some(2)));
        assert_eq!(of(b"9", b"9", b"8", &[]), Ok(None));
        for count in [&b"7"[..], b"99"] {
            assert_eq!(of(b"1", b"1", count, &[]), Err(Malformed));
        }
    }

    #[test]
    fn a_notice_is_read_as_it_was_written_and_an_unknown_one_is_passed_over() {
        let notice = NodeNotice::TicketReplaced { ticket_id: "t-1".into(), newer: u64::MAX };
        for notice in [notice, NodeNotice::OutboxFilled] {
            assert_eq!(read_notice(&write_notice(&notice)), Ok(Some(notice)));
        }
        assert_eq!(read_notice(&message(&[b"1", b"1", b"something_new", b""])), Ok(None));
        assert_eq!(read_notice(&message(&[b"9", b"9", TICKET_REPLACED])), Ok(None));
        assert_eq!(read_notice(&message(&[b"1", b"1", TICKET_REPLACED])), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, parts in prop::collection::vec(".{0,9}", 0..12)) {
            let _ = (Live::read(&bytes), read_notice(&bytes));
            let made = message(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
            let _ = Live::read(&made);
            let _ = Live::read(&[message(&HEAD), made].concat());
        }
    }
}
