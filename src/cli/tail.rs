use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::client::{ClientArgs, block_on};
use crate::clock::jittered;
use crate::wire::{SseDecoder, SseMessage};

/// Options of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Topics, separated by commas
    #[arg(long)]
    topics: String,
    /// Position to resume from
    #[arg(long)]
    since: Option<String>,
    /// End after this many events
    #[arg(long)]
    count: Option<u64>,
    /// Print each event object as one line of JSON, control events included
    #[arg(long)]
    json: bool,
}

/// Longest wait between two attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Where a listener stands.
struct Tail<'a> {
    args: &'a TailArgs,
    cursor: Option<String>,
    left: Option<u64>,
    retry: Duration,
    coloured: bool,
}

/// How one connection ended.
enum Ended {
    /// Enough events were seen.
    Enough,
    /// It broke, or the server asked to come back.
    Again,
}

/// Listens until enough was seen, or for ever.
pub fn run(args: &TailArgs) -> anyhow::Result<()> {
    let coloured = std::io::stdout().is_terminal();
    let retry = Duration::from_secs(1);
    let mut tail = Tail { args, cursor: args.since.clone(), left: args.count, retry, coloured };
    block_on(async {
        let reader = pin!(reader_gone());
        let listening = pin!(tail.listen());
        match select(reader, listening).await {
            Either::Left(_) => Ok(()),
            Either::Right((ended, _)) => ended,
        }
    })
}

/// Waits until nobody reads standard output any more, as after `| head -1`; for ever where it is no pipe.
async fn reader_gone() {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let gone = async |out| Sender::from_owned_fd_unchecked(out)?.ready(Interest::ERROR).await;
    if let Ok(out) = out
        && gone(out).await.is_err()
    {
        std::future::pending().await
    }
}

impl Tail<'_> {
    async fn listen(&mut self) -> anyhow::Result<()> {
        let client = self.args.client.client()?;
        let mut failures = 0;
        loop {
            match self.connect(&client).await {
                Ok(Ended::Enough) => return Ok(()),
                Ok(Ended::Again) => failures = 0,
                Err(error) if error.is::<Refused>() => return Err(error),
                // nobody reads what it prints any more
                Err(error) if error.is::<std::io::Error>() => return Ok(()),
                Err(error) => {
                    failures += 1;
                    eprintln!("{error:#}; trying again");
                }
            }
            let wait = self.retry.saturating_mul(1 << failures.min(5)).min(MAX_BACKOFF);
            tokio::time::sleep(jittered(wait.max(Duration::from_millis(200)), 0.5)).await;
        }
    }
}

/// The server will not have us, however often we ask.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl Tail<'_> {
    async fn connect(&mut self, client: &reqwest::Client) -> anyhow::Result<Ended> {
        let url = reqwest::Url::parse_with_params(
            &self.args.client.at("/v2/realtime/stream"),
            [("topics", self.args.topics.as_str())],
        )?;
        let mut request =
            client.get(url).header("X-API-Key", &self.args.client.key).header("Accept", "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let response = request.send().await.context("the server cannot be reached")?;
        let status = response.status();
        if status.is_client_error() && status.as_u16() != 429 {
            return Err(Refused(format!("{status}: {}", response.text().await?)).into());
        }
        if !status.is_success() {
            bail!("{status}");
        }
        let (mut bytes, mut decoder) = (response.bytes_stream(), SseDecoder::default());
        while let Some(piece) = bytes.next().await {
            for message in decoder.feed(&piece?) {
                if let Some(ended) = self.take(&message)? {
                    return Ok(ended);
                }
            }
        }
        Ok(Ended::Again)
    }

    fn take(&mut self, message: &SseMessage) -> anyhow::Result<Option<Ended>> {
        if let Some(id) = &message.id {
            self.cursor = Some(id.clone());
        }
        if let Some(retry_ms) = message.retry_ms {
            self.retry = Duration::from_millis(retry_ms);
        }
        let data: Value = serde_json::from_str(&message.data).unwrap_or(Value::Null);
        let is_control = matches!(message.event.as_str(), "ready" | "heartbeat" | "position" | "close");
        self.print(message, &data, is_control)?;
        if message.event == "close" && data["reconnect"] == false {
            return Err(Refused(format!("the server closed the stream: {}", data["reason"])).into());
        }
        if !is_control {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Ok((self.left == Some(0)).then_some(Ended::Enough))
    }

    fn print(&self, message: &SseMessage, data: &Value, is_control: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.args.json {
            let line = match is_control {
                true => {
                    serde_json::json!({"event": message.event, "id": message.id, "data": data}).to_string()
                }
                false => message.data.clone(),
            };
            writeln!(out, "{line}")?;
        } else if is_control {
            match message.event.as_str() {
                "ready" => eprintln!("ready at {}, recovered: {}", data["position"], data["recovered"]),
                "close" => eprintln!("closed: {}", data["reason"]),
                _ => {}
            }
        } else {
            let (ts, topic) =
                (data["ts"].as_str().unwrap_or_default(), data["topic"].as_str().unwrap_or_default());
            match self.coloured {
                true => writeln!(
                    out,
                    "\x1b[2m{ts}\x1b[0m \x1b[36m{topic}\x1b[0m \x1b[1m{}\x1b[0m {}",
                    message.event, data["data"]
                )?,
                false => writeln!(out, "{ts} {topic} {} {}", message.event, data["data"])?,
            }
        }
        Ok(out.flush()?)
    }
}
