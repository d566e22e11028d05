//! Clients that propose to one bid at once, each again when it is answered; and whether the ranks were exact.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fanout_report::Latency;
use super::publisher::complete_answer;
use super::ranking_report::Taken;
use super::round_trip::{connect, read_until};
use crate::bids::ranking::OrderStatistics;
use crate::clock::random_u64;

const PATIENCE: Duration = Duration::from_secs(20);
/// Prices lie below: some are alike, so that ties are to be decided as well.
const PRICES: u64 = 1_000_000;
/// Rows of a ranking that are read at a time.
const PAGE: usize = 200;

/// A server, and how it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) api_key: Option<String>,
}

/// A proposal, as it was sent and answered.
struct Offer {
    number: u64,
    price: u64,
    version: i64,
    rank: Option<usize>,
}

#[derive(Deserialize)]
struct Accepted {
    version: i64,
    rank: Option<usize>,
}

#[derive(Deserialize)]
struct Page {
    ranked_proposals: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    proposal_id: String,
    rank: usize,
}

/// Has `clients` propose to a new bid for a time, and checks the ranks that were told and those that are there then.
pub(super) fn propose(target: &Target, clients: usize, time: Duration) -> anyhow::Result<Taken> {
    let bid = format!("bench-{:016x}", random_u64());
    let mut caller = Caller::open(target)?;
    let draft = format!(
        r#"{{"bid_id":"{bid}","title":"bench","origin":"a","destination":"b","cargo":"c","visibility":"open",
            "criteria":[{{"field":"price","weight":1,"direction":"asc","reference":1}}]}}"#
    );
    caller.call::<serde_json::Value>("POST", "/v2/bids", &draft)?;
    caller.call::<serde_json::Value>("POST", &format!("/v2/bids/{bid}/open"), "{}")?;
    let started = Instant::now();
    let (offers, times_us) = swarm(target, &bid, clients, time)?;
    let seconds = started.elapsed().as_secs_f64();
    // a server may have closed what was idle meanwhile
    let mut caller = Caller::open(target)?;
    let ranks_wrong = wrong_answers(&offers) + wrong_rows(&mut caller, &bid, &offers)?;
    caller.call::<serde_json::Value>("POST", &format!("/v2/bids/{bid}/cancel"), "{}")?;
    let accepted = offers.len() as u64;
    Ok(Taken {
        accepted,
        seconds,
        accepted_per_s: accepted as f64 / seconds,
        latency: Latency::of(times_us).context("nothing was accepted")?,
        ranks_wrong,
    })
}

fn swarm(
    target: &Target,
    bid: &str,
    clients: usize,
    time: Duration,
) -> anyhow::Result<(Vec<Offer>, Vec<u32>)> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let (mut offers, mut times_us) = (Vec::new(), Vec::new());
    let open = |number| Client::open(target, Token(number), poll.registry());
    let mut all = (0..clients).map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let until = Instant::now() + time;
    let mut asked = 0;
    let mut ask = |client: &mut Client| {
        asked += 1;
        client.ask(target, bid, asked)
    };
    all.iter_mut().try_for_each(&mut ask)?;
    let mut busy = clients;
    while busy > 0 {
        match poll.poll(&mut events, Some(PATIENCE)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        ensure!(!events.is_empty(), "the server did not answer a proposal within {PATIENCE:?}");
        for event in &events {
            let client = &mut all[event.token().0];
            let Some(offer) = client.read()? else { continue };
            times_us.push(client.since.elapsed().as_micros() as u32);
            offers.push(offer);
            match Instant::now() < until {
                true => ask(client)?,
                false => busy -= 1,
            }
        }
    }
    Ok((offers, times_us))
}

/// One client, with one proposal under way.
struct Client {
    stream: mio::net::TcpStream,
    since: Instant,
    number: u64,
    price: u64,
    answer: Vec<u8>,
}

impl Client {
    fn open(target: &Target, token: Token, registry: &mio::Registry) -> anyhow::Result<Self> {
        let stream = connect(target.address).with_context(|| format!("the server at {}", target.address))?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Client { stream, since: Instant::now(), number: 0, price: 0, answer: Vec::new() })
    }

    fn ask(&mut self, target: &Target, bid: &str, number: u64) -> anyhow::Result<()> {
        (self.number, self.price) = (number, random_u64() % PRICES);
        let body = format!(
            r#"{{"proposal_id":"p-{number}","carrier_id":"c-{number}","price":{},"ei":1,"lead_time_hours":1}}"#,
            self.price
        );
        let request = target.request("POST", &format!("/v2/bids/{bid}/proposals"), &body);
        self.answer.clear();
        self.since = Instant::now();
        // So short a request fits into the send buffer of a connection whose last request was answered.
        self.stream.write_all(request.as_bytes()).context("a connection broke")
    }

    /// Reads what there is; what was proposed, once it is answered.
    fn read(&mut self) -> anyhow::Result<Option<Offer>> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(read) => self.answer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a connection broke"),
            }
        }
        if complete_answer(&self.answer).is_none() {
            return Ok(None);
        }
        let accepted: Accepted = body(&self.answer)?;
        let Client { number, price, .. } = *self;
        Ok(Some(Offer { number, price, version: accepted.version, rank: accepted.rank }))
    }
}

impl Target {
    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let key = self.api_key.as_ref().map_or(String::new(), |key| format!("X-API-Key: {key}\r\n"));
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
    }
}

/// Calls that are waited for.
struct Caller<'a> {
    target: &'a Target,
    stream: TcpStream,
}

impl<'a> Caller<'a> {
    fn open(target: &'a Target) -> anyhow::Result<Self> {
        let stream = connect(target.address).with_context(|| format!("the server at {}", target.address))?;
        Ok(Caller { target, stream })
    }

    fn call<T: DeserializeOwned>(&mut self, method: &str, path: &str, text: &str) -> anyhow::Result<T> {
        self.stream.write_all(self.target.request(method, path, text).as_bytes())?;
        body(&read_until(&mut self.stream, |bytes| complete_answer(bytes).is_some())?)
    }
}

/// The body of an answer that is good.
fn body<T: DeserializeOwned>(answer: &[u8]) -> anyhow::Result<T> {
    let said = || String::from_utf8_lossy(answer).chars().take(1000).collect::<String>();
    let is_good = complete_answer(answer).is_some_and(|status| status / 100 == 2);
    ensure!(is_good, "the server refused:\n{}", said());
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
    serde_json::from_slice(&answer[head + 4..]).with_context(said)
}

/// Versions that are missing, and ranks that are not those of the moment of their change.
fn wrong_answers(offers: &[Offer]) -> u64 {
    let mut offers: Vec<&Offer> = offers.iter().collect();
    offers.sort_unstable_by_key(|own| own.version);
    let (mut list, mut wrong) = (OrderStatistics::default(), 0);
    for (at, own) in offers.into_iter().enumerate() {
        let rank = list.insert((own.price, own.version)).map(|place| place + 1);
        wrong += u64::from(own.version != at as i64 + 1 || own.rank != rank);
    }
    wrong
}

/// Rows of the whole ranking that are not where sorting puts them.
fn wrong_rows(caller: &mut Caller<'_>, bid: &str, offers: &[Offer]) -> anyhow::Result<u64> {
    let mut sorted: Vec<&Offer> = offers.iter().collect();
    sorted.sort_unstable_by_key(|own| (own.price, own.version));
    let mut wrong = 0;
    // one page more than there should be
    for offset in (0..=sorted.len()).step_by(PAGE) {
        let path = format!("/v2/bids/{bid}/ranking?offset={offset}&limit={PAGE}");
        let page: Page = caller.call("GET", &path, "")?;
        let expected: Vec<_> = sorted.iter().skip(offset).take(PAGE).collect();
        let pairs = page.ranked_proposals.iter().zip(&expected).enumerate();
        let is_right = |(at, (row, own)): &(usize, (&Row, &&&Offer))| {
            row.proposal_id == format!("p-{}", own.number) && row.rank == offset + at + 1
        };
        let right = pairs.filter(is_right).count();
        wrong += (expected.len().max(page.ranked_proposals.len()) - right) as u64;
    }
    Ok(wrong)
}
