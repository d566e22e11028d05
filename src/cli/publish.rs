use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::{ClientArgs, block_on};

/// Options of `publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The topic, e.g. topic:news; may be repeated
    #[arg(long, required = true)]
    topic: Vec<String>,
    /// The event's name
    #[arg(long = "type")]
    name: String,
    /// The event's data, as JSON
    #[arg(long, default_value = "{}")]
    data: String,
    /// durable, latest or volatile
    #[arg(long, default_value = "durable")]
    class: String,
    /// What a latest event is the newest of
    #[arg(long = "event-key")]
    event_key: Option<String>,
    /// A repeated request with the same key gets the stored answer
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Publishes one event.
pub fn run(args: &PublishArgs) -> anyhow::Result<()> {
    RawValue::from_string(args.data.clone()).context("--data is not JSON")?;
    let mut body = Map::new();
    body.insert("topics".into(), args.topic.clone().into());
    body.insert("type".into(), args.name.clone().into());
    body.insert("class".into(), args.class.clone().into());
    if let Some(key) = &args.event_key {
        body.insert("key".into(), key.clone().into());
    }
    // the data goes in as it was given: its numbers keep their digits
    let head = Value::Object(body).to_string();
    let body = format!("{},\"data\":{}}}", head.trim_end_matches('}'), args.data);
    block_on(async {
        let mut request = args.client.client()?.post(args.client.at("/v2/events"));
        request = request.header("X-API-Key", &args.client.key).header("Content-Type", "application/json");
        if let Some(key) = &args.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.body(body).send().await.context("the server cannot be reached")?;
        let (status, answer) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("{status}: {answer}");
        }
        let value: Value = serde_json::from_str(&answer)?;
        match (args.json, value["position"].as_str()) {
            (false, Some(position)) => println!("published at {position}"),
            (false, None) => println!("sent"),
            (true, _) => println!("{answer}"),
        }
        Ok(())
    })
}
