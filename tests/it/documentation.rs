//! The documentation says what is there, and nothing that is not.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Api, Server, ServerOptions, eventually};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words between backticks that satisfy a condition.
fn quoted(text: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).filter(|word| wanted(word)).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_metric_exists() {
    let server = Server::with(ServerOptions::default().set("metrics.bind", "127.0.0.1:0"));
    let address = server.metrics_address().expect("an open port for metrics");
    // labels that only traffic can tell: a stream that comes and goes, an event, a refusal
    let mut stream = server.api().listen("topic:news", None).await;
    stream.ready().await;
    server.api().publish("topic:news", "headline", serde_json::json!({})).await;
    stream.take(1).await;
    drop(stream);
    assert_eq!(server.api().anonymous().get("/v2/fleets").await.status, 401);
    let open = Api::new(address, None);
    eventually("the stream's end to be counted", async || {
        open.get("/metrics").await.text.contains("bongsu_closes_total").then_some(())
    })
    .await;
    let text = Api::new(address, None).get("/metrics").await.text;
    let served: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let documented = quoted(&read("docs/metrics.md"), |word| word.starts_with("bongsu_"));
    assert_eq!(served, documented);
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let named = quoted(&read("docs/guarantees.md"), |word| word.contains("::"));
    assert!(named.len() >= 20, "{} promises", named.len());
    for name in named {
        let (module, function) = name.rsplit_once("::").expect("has one");
        let file = match module.strip_prefix("it::") {
            Some(module) => format!("tests/it/{module}.rs"),
            None => format!("src/{}.rs", module.trim_end_matches("::tests").replace("::", "/")),
        };
        assert!(read(&file).contains(&format!("fn {function}(")), "{name}: no such test in {file}");
    }
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/decisions");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for (index, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}-", index + 1)), "{name}");
    }
}

#[tokio::test]
async fn the_readme_names_the_two_commands_and_every_document() {
    let readme = read("README.md");
    assert!(readme.contains("cargo run --release") && readme.contains("./test"));
    for name in ["protocol", "guarantees", "operations", "performance", "metrics"] {
        assert!(readme.contains(&format!("docs/{name}.md")), "{name}");
        assert!(read(&format!("docs/{name}.md")).starts_with("# "));
    }
}
