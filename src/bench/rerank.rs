//! One proposal ranked anew among many: by a bid's ranking, by sorting all of it, and by Redis.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::figures::Spread;
use super::ranking_report::Reranked;
use super::round_trip::{connect, read_until};
use crate::bids::ranking::BidRanking;
use crate::bids::{Criteria, Proposal, Score, Terms, appraise};
use crate::clock::random_u64;
use crate::domain::{Decimal, Timestamp};

/// Prices lie below this many millionths: rarely two alike, and each exact as a double of Redis.
const PRICES: u64 = 1 << 50;
/// Proposals that Redis is told of at once.
const PIECE: usize = 500;

/// A proposal offers another price.
struct Change {
    number: usize,
    price: Decimal,
}

/// What keeps proposals in order.
trait Order {
    /// Takes a change in; the proposal's rank with it.
    fn change(&mut self, change: &Change) -> anyhow::Result<usize>;
}

/// Ranks proposals of a bid of `size` anew, `changes` of them in each round, in every way by turns.
pub(super) fn rerank(
    size: usize,
    (changes, rounds): (usize, usize),
    redis: Option<SocketAddr>,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Reranked> {
    let prices: Vec<Decimal> = (0..size).map(|_| price()).collect();
    let mut orders: Vec<Box<dyn Order>> = vec![Box::new(Kept::new(&prices)), Box::new(Sorted::new(&prices))];
    if let Some(address) = redis {
        orders.push(Box::new(Redis::open(address, &prices)?));
    }
    let (mut times, mut ranks_wrong) = (vec![Vec::new(); orders.len()], 0);
    for round in 0..rounds {
        progress(round);
        let asked: Vec<Change> =
            (0..changes).map(|_| Change { number: random_u64() as usize % size, price: price() }).collect();
        let mut ranks = vec![Vec::new(); orders.len()];
        // The order alternates, so that what drifts on the machine does not favour one of them.
        let mut turn: Vec<_> = orders.iter_mut().enumerate().collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for (at, order) in turn {
            let started = Instant::now();
            for change in &asked {
                ranks[at].push(order.change(change)?);
            }
            times[at].push(each_us(started.elapsed(), changes));
        }
        let differ = |at: usize| ranks.iter().any(|own| own[at] != ranks[0][at]);
        ranks_wrong += (0..changes).filter(|at| differ(*at)).count() as u64;
    }
    let over = |at: usize| {
        let own: &Vec<f64> = times.get(at)?;
        Spread::of(own.iter().zip(&times[0]).map(|(other, kept)| other / kept))
    };
    Ok(Reranked {
        proposals: size,
        changes,
        ranking_us: Spread::of(times[0].iter().copied()),
        sorting_us: Spread::of(times[1].iter().copied()),
        redis_us: times.get(2).and_then(|own| Spread::of(own.iter().copied())),
        sorting_ratio: over(1),
        redis_ratio: over(2),
        ranks_wrong,
    })
}

fn price() -> Decimal {
    Decimal::from_millionths((random_u64() % PRICES) as i64)
}

fn each_us(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e6 / count as f64
}

fn criteria() -> Criteria {
    let written = r#"[{"field":"price","weight":1,"direction":"asc","reference":1}]"#;
    Criteria::check(serde_json::from_str(written).expect("criteria")).expect("criteria in order")
}

fn terms(price: Decimal) -> Terms {
    let one = Decimal::from_millionths(1_000_000);
    Terms { price, ei: one, lead_time_hours: one, rating: None }
}

/// As a bid's actor keeps it.
struct Kept {
    ranking: BidRanking,
    names: Vec<Arc<str>>,
}

impl Kept {
    fn new(prices: &[Decimal]) -> Self {
        let names: Vec<Arc<str>> =
            (0..prices.len()).map(|number| format!("proposal-{number}").into()).collect();
        let mut ranking = BidRanking::new(criteria(), None);
        for (number, (name, price)) in names.iter().zip(prices).enumerate() {
            let at = Timestamp::from_micros(0);
            ranking.put(Proposal {
                id: name.clone(),
                carrier: format!("carrier-{number}").into(),
                terms: terms(*price),
                withdrawn: false,
                version: number as i64 + 1,
                submitted_at: at,
                updated_at: at,
            });
        }
        Kept { ranking, names }
    }
}

impl Order for Kept {
    fn change(&mut self, change: &Change) -> anyhow::Result<usize> {
        let before = self.ranking.proposal(&self.names[change.number]).context("it is there")?;
        let (terms, version) = (terms(change.price), self.ranking.version() + 1);
        let splice = self.ranking.put(Proposal { terms, version, ..before.clone() });
        splice.to.context("it is ranked")
    }
}

/// A list that is sorted after each change. It was in order before, but for what has changed, which is the best case
/// for a sort; keys are worked out once, and only for that.
struct Sorted {
    criteria: Criteria,
    list: Vec<(Score, i64, usize)>,
    version: i64,
}

impl Sorted {
    fn new(prices: &[Decimal]) -> Self {
        let mut own = Sorted { criteria: criteria(), list: Vec::new(), version: 0 };
        for (number, price) in prices.iter().enumerate() {
            own.version += 1;
            let score = own.score(*price).expect("a price is all that is needed");
            own.list.push((score, own.version, number));
        }
        own.list.sort();
        own
    }

    fn score(&self, price: Decimal) -> anyhow::Result<Score> {
        appraise(&terms(price), &self.criteria, None).map_err(|reason| anyhow::anyhow!(reason.as_str()))
    }

    fn place(&self, number: usize) -> anyhow::Result<usize> {
        self.list.iter().position(|own| own.2 == number).context("it is there")
    }
}

impl Order for Sorted {
    fn change(&mut self, change: &Change) -> anyhow::Result<usize> {
        self.version += 1;
        let at = self.place(change.number)?;
        self.list[at] = (self.score(change.price)?, self.version, change.number);
        self.list.sort();
        Ok(self.place(change.number)? + 1)
    }
}

/// A sorted set of Redis, the best one highest: `ZADD` and `ZREVRANK` in one round trip.
struct Redis {
    stream: TcpStream,
    key: String,
}

impl Redis {
    fn open(address: SocketAddr, prices: &[Decimal]) -> anyhow::Result<Self> {
        let stream = connect(address).with_context(|| format!("Redis at {address}"))?;
        let mut own = Redis { stream, key: format!("bongsu-bench-{:016x}", random_u64()) };
        for (piece, prices) in prices.chunks(PIECE).enumerate() {
            let mut words = vec!["ZADD".to_owned(), own.key.clone()];
            for (at, price) in prices.iter().enumerate() {
                words.extend([score(*price), member(piece * PIECE + at)]);
            }
            own.ask(&command(&words), 1)?;
        }
        Ok(own)
    }

    /// Sends commands that are each answered with a number; the last of these.
    fn ask(&mut self, commands: &str, count: usize) -> anyhow::Result<usize> {
        self.stream.write_all(commands.as_bytes())?;
        let is_whole = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() >= count;
        let answer = String::from_utf8(read_until(&mut self.stream, is_whole)?)?;
        ensure!(answer.lines().count() == count, "Redis answered {answer:?}");
        let last = answer.lines().last().and_then(|line| line.strip_prefix(':')?.parse().ok());
        last.with_context(|| format!("Redis answered {answer:?}"))
    }
}

impl Order for Redis {
    fn change(&mut self, change: &Change) -> anyhow::Result<usize> {
        let (key, member) = (self.key.clone(), member(change.number));
        let add = command(&["ZADD".to_owned(), key.clone(), score(change.price), member.clone()]);
        let rank = command(&["ZREVRANK".to_owned(), key, member]);
        Ok(self.ask(&(add + &rank), 2)? + 1)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // a server that is gone has nothing left either
        let _ = self.ask(&command(&["DEL".to_owned(), self.key.clone()]), 1);
    }
}

fn member(number: usize) -> String {
    format!("proposal-{number}")
}

fn score(price: Decimal) -> String {
    (-price.millionths()).to_string()
}

/// A command as Redis reads it.
fn command(words: &[String]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    text
}
