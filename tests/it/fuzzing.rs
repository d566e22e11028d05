//! Every parser against inputs that nobody would send on purpose: mutations of the kept corpus
//! (`tests/corpus/<parser>/`), seeded, so that a failure repeats. `./test --long` tries a million of each.
//!
//! A parser may refuse; it may not panic, hang, or accept what it cannot write down again.

use std::io::Write as _;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bongsu::bridge::Interop;
use bongsu::clock::Clock;
use bongsu::domain::{Cursor, Decimal, EntityId, EventName, Selector, TenantId, Timestamp, Topic, UserSub};
use bongsu::http::Query;
use bongsu::identity::Scopes;
use bongsu::limits::{BlockList, ForwardedBy, client_address, parse_network};
use bongsu::publishing::Publish;
use bongsu::sessions::{
    Frames, Inbox, Message, QueueLimits, QueueMetrics, Request, SendQueue, WsConnection, WsLimits,
};
use bongsu::settings::Overrides;
use bongsu::telemetry::Metrics;
use bongsu::wire::{CloseCode, Framing, SseDecoder, compact, is_deeper_than, parse};
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Dice, in_package};

/// A parser, and which share of the usual number of inputs it gets: those that cost more get fewer.
struct Target {
    name: &'static str,
    share: u32,
    parse: fn(&[u8]),
}

const TARGETS: &[Target] = &[
    Target { name: "topic", share: 1, parse: topic },
    Target { name: "ids", share: 1, parse: ids },
    Target { name: "cursor", share: 1, parse: cursor },
    Target { name: "decimal", share: 1, parse: decimal },
    Target { name: "timestamp", share: 1, parse: timestamp },
    Target { name: "scopes", share: 1, parse: scopes },
    Target { name: "query", share: 1, parse: query },
    Target { name: "publish", share: 2, parse: publish },
    Target { name: "request", share: 2, parse: request },
    Target { name: "interop", share: 2, parse: interop },
    Target { name: "forwarded", share: 1, parse: forwarded },
    Target { name: "block_list", share: 1, parse: block_list },
    Target { name: "depth", share: 1, parse: depth },
    Target { name: "sse", share: 2, parse: sse },
    Target { name: "websocket", share: 20, parse: websocket },
    Target { name: "config", share: 100, parse: config },
];

fn topic(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(topic) = Topic::parse(text) {
        assert_eq!(Topic::parse(topic.as_str()).as_ref(), Ok(&topic));
        assert!(Selector::parse(topic.as_str()).is_ok_and(|selector| selector.matches(&topic)));
    }
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(&selector));
        assert!(!selector.to_string().contains(['\r', '\n']));
    }
}

fn ids(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = EntityId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(tenant) = TenantId::parse(text) {
        assert_eq!(tenant.as_str(), text);
    }
    if let Ok(name) = EventName::parse(text) {
        assert!(!name.as_str().contains(['\r', '\n', '"']));
    }
    if let Ok(sub) = UserSub::parse(text) {
        let topic = Topic::user(&sub);
        assert_eq!(Topic::parse(topic.as_str()).as_ref(), Ok(&topic), "a user's topic can be read");
    }
}

fn cursor(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Cursor::At(position) = Cursor::read(text) {
        assert_eq!(Cursor::read(&position.to_string()), Cursor::At(position));
    }
}

fn decimal(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(decimal) = Decimal::parse(text) {
        assert_eq!(Decimal::parse(&decimal.to_string()), Ok(decimal));
    }
}

fn timestamp(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(timestamp) = Timestamp::parse(text) {
        assert!(Timestamp::parse(&timestamp.to_string()).is_some());
    }
}

fn scopes(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(scopes) = Scopes::parse(text) {
        assert_eq!(Scopes::parse(&scopes.to_string()), Ok(scopes));
    }
}

fn query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(query) = Query::parse(text) {
        let _ = (query.list("topics"), query.ids("fleet_ids"), query.limit(), query.get("cursor"));
    }
}

fn forwarded(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let trusted = [parse_network("10.0.0.0/8").expect("a network")];
    let (proxy, client) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([198, 51, 100, 1]));
    for by in [ForwardedBy::XForwardedFor, ForwardedBy::Forwarded] {
        assert_eq!(client_address(client, [text].into_iter(), by, &trusted), client, "no proxy");
        client_address(proxy, [text].into_iter(), by, &trusted);
        let own = if by == ForwardedBy::Forwarded { "for=198.51.100.1" } else { "198.51.100.1" };
        let appended = format!("{text},{own}");
        assert_eq!(client_address(proxy, [appended.as_str()].into_iter(), by, &trusted), client);
    }
}

fn block_list(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(network) = parse_network(text) {
        assert_eq!(parse_network(&network.to_string()), Some(network));
        assert_eq!(network, network.trunc());
    }
    if let Ok(list) = BlockList::read(text) {
        list.is_blocked(IpAddr::from([192, 0, 2, 1]), Timestamp::from_micros(0));
        assert!(list.len() <= text.lines().count());
    }
}

fn depth(input: &[u8]) {
    let found =
        (0..=input.len()).find(|limit| !is_deeper_than(input, *limit)).expect("as deep as long at most");
    assert!(found == 0 || is_deeper_than(input, found - 1));
    // what serde_json reads with its own bound is what passes ours
    if parse::<serde_json::Value>(input).is_ok() {
        assert!(found < 128);
    }
}

fn publish(input: &[u8]) {
    let _ = parse::<Publish>(input);
    if let Ok(raw) = parse::<Box<RawValue>>(input) {
        assert!(!compact(&raw).contains(['\r', '\n']));
    }
}

fn request(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = Request::parse(text);
}

/// A channel of Redis, a line break, and the message.
fn interop(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let channel = String::from_utf8_lossy(&input[..end]);
    let channels = [("system-events".to_owned(), Topic::parse("topic:system").expect("a topic"))];
    let own = Interop { channels: channels.into(), source: "own:".into(), message_bytes: 4096, depth: 64 };
    for event in own.read(&channel, input.get(end + 1..).unwrap_or_default()).into_iter().flatten() {
        assert!(!event.data.contains(['\r', '\n']));
        assert!(serde_json::from_str::<Box<RawValue>>(&event.data).is_ok(), "{event:?}");
        assert_eq!(Topic::parse(event.topic.as_str()).as_ref(), Ok(&event.topic));
        assert!(EventName::parse(event.name.as_str()).is_ok() && event.version.is_none());
    }
}

fn sse(input: &[u8]) {
    let whole = SseDecoder::default().feed(input);
    let mut decoder = SseDecoder::default();
    let pieces: Vec<_> = input.chunks(3).flat_map(|piece| decoder.feed(piece)).collect();
    assert_eq!(pieces, whole, "the same however it is cut");
}

struct Echo(Rc<SendQueue>);

impl Inbox for Echo {
    fn receive(&mut self, message: Message) -> Option<LocalBoxFuture<'static, ()>> {
        if let Message::Text(text) = message {
            self.0.push_control(text.into());
        }
        None
    }

    fn failed(&mut self, _: CloseCode) {}
}

/// Bytes that arrive in any pieces, then the end: the connection ends too, and is told why if it was wrong.
fn websocket(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (client, server) = tokio::io::duplex(256);
        let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
        let limits = QueueLimits { bytes: 4096, items: 100 };
        let queue = Rc::new(SendQueue::new(Framing::WEBSOCKET, limits, metrics));
        let limits = WsLimits { message_bytes: 200, message_time: Duration::from_secs(1) };
        let connection = WsConnection::new(
            server,
            bytes::BytesMut::new(),
            Frames::of(queue.clone()),
            Echo(queue.clone()),
            limits,
        );
        let (mut reader, mut writer) = tokio::io::split(client);
        let input = input.to_vec();
        let talk = async {
            let send = async {
                for piece in input.chunks(7) {
                    if writer.write_all(piece).await.is_err() {
                        break;
                    }
                }
                let _ = writer.shutdown().await;
            };
            let mut said = Vec::new();
            let (_, read) = tokio::join!(send, reader.read_to_end(&mut said));
            let _ = read;
        };
        let both = async { tokio::join!(connection, talk) };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("it ends");
        assert!(queue.stalled_for(std::time::Instant::now()) < Duration::from_secs(60));
    });
}

fn config(input: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(input).expect("written");
    let overrides = Overrides { file: Some(file.path().to_owned()), ..Overrides::default() };
    if let Err(error) = bongsu::settings::load(&overrides) {
        assert!(!error.to_string().is_empty());
    }
}

/// What parsers treat in their own way, whatever they parse.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\0",
    b"\xff\xfe",
    b"*",
    b":",
    b",",
    b"%",
    b"%00",
    b"%ff",
    b"\"",
    b"\\u0000",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"-",
    b"+",
    b"e308",
    b"1e-999",
    b"18446744073709551615",
    b"99999999999999999999",
    b"0x",
    b"..",
    b"null",
    b"true",
    b"data: ",
    b"id:",
    b"\n\n",
    "한".as_bytes(),
    "\u{2028}".as_bytes(),
    b"9999-12-31T23:59:59Z",
    b"\x81\xfe",
    b"\x7f",
];

fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let any = |dice: &mut Dice| corpus[dice.roll(corpus.len() as u64) as usize].clone();
    let mut input = any(dice);
    for _ in 0..=dice.roll(5) {
        let at = dice.roll(input.len() as u64 + 1) as usize;
        let to = at + dice.roll((input.len() - at) as u64 + 1) as usize;
        match dice.roll(8) {
            0 => drop(input.drain(at..to)),
            1 => input.insert(at, dice.roll(256) as u8),
            2 if at < input.len() => input[at] ^= 1 << dice.roll(8),
            3 if at < input.len() => input[at] = dice.roll(256) as u8,
            4 => {
                let piece = input[at..to].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let other = any(dice);
                let cut = dice.roll(other.len() as u64 + 1) as usize;
                input.splice(at.., other[cut..].iter().copied());
            }
            _ => {
                let word = WORDS[dice.roll(WORDS.len() as u64) as usize];
                input.splice(at..at, word.iter().copied());
            }
        }
        input.truncate(8192);
    }
    input
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = in_package("tests/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

fn hammer(target: &Target) {
    let long = std::env::var_os("BONGSU_TEST_LONG").is_some();
    let inputs = if long { 1_000_000 } else { 20_000 } / target.share;
    let corpus = corpus(target.name);
    assert!(corpus.len() >= 3, "{}: a corpus of {}", target.name, corpus.len());
    let mut dice = Dice::new(0x5eed);
    let mutations = std::iter::repeat_with(|| mutate(&mut dice, &corpus)).take(inputs as usize);
    for input in corpus.clone().into_iter().chain(mutations) {
        if catch_unwind(AssertUnwindSafe(|| (target.parse)(&input))).is_err() {
            let shown = String::from_utf8_lossy(&input);
            panic!("{} cannot take {input:?} ({shown:?}): mend it, and keep it in the corpus", target.name);
        }
    }
}

macro_rules! targets {
    ($($test:ident $name:literal)*) => {
        $(
            #[test]
            fn $test() {
                hammer(TARGETS.iter().find(|target| target.name == $name).expect("a target"));
            }
        )*

        #[test]
        fn every_target_is_hammered() {
            let hammered = [$($name),*];
            assert!(TARGETS.iter().all(|target| hammered.contains(&target.name)));
        }
    };
}

targets! {
    topics_take_any_input "topic"
    ids_take_any_input "ids"
    cursors_take_any_input "cursor"
    decimals_take_any_input "decimal"
    timestamps_take_any_input "timestamp"
    scopes_take_any_input "scopes"
    queries_take_any_input "query"
    publishes_take_any_input "publish"
    requests_take_any_input "request"
    messages_of_other_services_take_any_input "interop"
    forwarded_headers_take_any_input "forwarded"
    block_lists_take_any_input "block_list"
    depths_take_any_input "depth"
    event_streams_take_any_input "sse"
    websockets_take_any_input "websocket"
    configurations_take_any_input "config"
}
