//! What keeping a bid's proposals in order costs: in process, and as commands to a server.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;

use super::Progress;
use super::proposers::{Target, propose};
use super::ranking_report::{Proposed, RankingReport, Reranked, Taken};
use super::rerank::rerank;

/// What is ranked, and where.
#[derive(Clone, clap::Args)]
pub struct RankingOptions {
    /// Server to propose to, IP:PORT; its limits must not be in the way [default: none, ranks in process].
    #[arg(long)]
    pub address: Option<SocketAddr>,

    /// Another server to measure in turns, for instance one with `ranking.batch` = 1, IP:PORT [default: none].
    #[arg(long, requires = "address")]
    pub beside: Option<SocketAddr>,

    /// Redis to rank by as well, in process, IP:PORT [default: none].
    #[arg(long, conflicts_with = "address")]
    pub redis: Option<SocketAddr>,

    /// Proposals of a bid, in process; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,100000")]
    pub sizes: Vec<usize>,

    /// Changes of each round, in process.
    #[arg(long, default_value_t = 1000)]
    pub changes: usize,

    /// Clients that propose at once to a server; several numbers are measured in turns.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512")]
    pub clients: Vec<usize>,

    /// Seconds of each round, to a server.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,

    /// Rounds, in each of which everything is measured once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// API key with scope manage [default: none].
    #[arg(long, env = "BONGSU_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// API key for --beside [default: --api-key].
    #[arg(long, env = "BONGSU_BESIDE_API_KEY", hide_env_values = true)]
    pub beside_api_key: Option<String>,
}

/// Written by hand so that the API keys stay out of logs.
impl fmt::Debug for RankingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankingOptions")
            .field("address", &self.address)
            .field("beside", &self.beside)
            .field("sizes", &self.sizes)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

impl RankingOptions {
    fn check(&self) -> anyhow::Result<()> {
        let all = |list: &[usize], most| !list.is_empty() && list.iter().all(|own| (1..=most).contains(own));
        ensure!((1..=1000).contains(&self.rounds), "--rounds must be from 1 to 1000");
        ensure!((0.01..=3600.0).contains(&self.seconds), "--seconds must be from 0.01 to 3600");
        ensure!((1..=10_000_000).contains(&self.changes), "--changes must be from 1 to 10000000");
        ensure!(all(&self.sizes, 1_000_000), "--sizes must be from 1 to 1000000");
        ensure!(all(&self.clients, 4096), "--clients must be from 1 to 4096");
        Ok(())
    }

    fn targets(&self) -> Vec<Target> {
        let target = |address, api_key: &Option<String>| Target { address, api_key: api_key.clone() };
        let key = if self.beside_api_key.is_some() { &self.beside_api_key } else { &self.api_key };
        let own = self.address.map(|address| target(address, &self.api_key));
        own.into_iter().chain(self.beside.map(|address| target(address, key))).collect()
    }
}

/// Runs the measurement on the calling thread.
///
/// # Errors
///
/// When a server refuses a proposal, goes away or takes too long, or when an option makes no sense. Ranks that are
/// wrong are no error: the report counts them.
pub fn ranking(options: &RankingOptions, progress: &mut Progress<'_>) -> anyhow::Result<RankingReport> {
    options.check()?;
    let targets = options.targets();
    let (in_process, served) = match targets.is_empty() {
        true => (in_process(options, progress)?, Vec::new()),
        false => (Vec::new(), served(options, &targets, progress)?),
    };
    let taken = served.iter().flat_map(|own| own.server.iter().chain(&own.beside));
    let ranks_wrong = in_process.iter().map(|own| own.ranks_wrong).sum::<u64>()
        + taken.map(|own| own.ranks_wrong).sum::<u64>();
    let text = |address: Option<SocketAddr>| address.map(|own| own.to_string());
    let (address, beside) = (text(options.address), text(options.beside));
    Ok(RankingReport { in_process, address, beside, served, ranks_wrong })
}

fn in_process(options: &RankingOptions, progress: &mut Progress<'_>) -> anyhow::Result<Vec<Reranked>> {
    let all = (options.sizes.len() * options.rounds) as f64;
    let rerank = |(at, size): (usize, &usize)| {
        let mut told = |round: usize| {
            let text = format!("{size} proposals, round {} of {}", round + 1, options.rounds);
            progress((at * options.rounds + round) as f64 / all, &text);
        };
        rerank(*size, (options.changes, options.rounds), options.redis, &mut told)
    };
    options.sizes.iter().enumerate().map(rerank).collect()
}

fn served(
    options: &RankingOptions,
    targets: &[Target],
    progress: &mut Progress<'_>,
) -> anyhow::Result<Vec<Proposed>> {
    let mut taken: Vec<[Vec<Taken>; 2]> = options.clients.iter().map(|_| Default::default()).collect();
    let all = (options.rounds * options.clients.len() * targets.len()) as f64;
    let mut done = 0.0;
    for round in 0..options.rounds {
        for (clients, taken) in options.clients.iter().zip(&mut taken) {
            // The order alternates, so that what drifts on the machine does not favour one of them.
            let mut turn: Vec<_> = targets.iter().zip(taken).collect();
            if round % 2 == 1 {
                turn.reverse();
            }
            for (target, taken) in turn {
                progress(done / all, &format!("round {}, {clients} clients", round + 1));
                taken.push(propose(target, *clients, Duration::from_secs_f64(options.seconds))?);
                done += 1.0;
            }
        }
    }
    let proposed =
        |(clients, [server, beside]): (&usize, [Vec<Taken>; 2])| Proposed::new(*clients, server, beside);
    Ok(options.clients.iter().zip(taken).map(proposed).collect())
}
