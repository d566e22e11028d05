//! The documentation says what is there, and nothing that is not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Api, Server, ServerOptions, eventually, in_package};

const DASHBOARD: &str = "deploy/grafana/dashboard.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";

fn read(path: &str) -> String {
    let path = in_package(path);
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
    // those of the links of a cluster have labels that it alone can tell
    let cluster = Server::with(ServerOptions::default().cluster(1));
    let text = text + &cluster.operator().get("/metrics").await.text;
    let served: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let documented = quoted(&read("docs/metrics.md"), |word| word.starts_with("bongsu_"));
    assert_eq!(served, documented);
}

/// The metrics that a file of queries names.
fn queried(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    text.split("bongsu_").skip(1).map(|rest| format!("bongsu_{}", name(rest))).collect()
}

/// A series' name without what Prometheus adds for counters and histograms.
fn base(series: &str) -> &str {
    let added = ["_total", "_bucket", "_count", "_sum"];
    added.iter().find_map(|suffix| series.strip_suffix(suffix)).unwrap_or(series)
}

#[tokio::test]
async fn dashboard_and_alerts_ask_for_series_that_are_documented() {
    let documented = quoted(&read("docs/metrics.md"), |word| word.starts_with("bongsu_"));
    let server = Server::with(ServerOptions::default().set("metrics.bind", "127.0.0.1:0"));
    let api = server.api();
    // a metric with labels is served from its first use on
    api.listen("topic:news", None).await.ready().await;
    api.publish("topic:news", "note", Value::Null).await;
    assert_eq!(api.anonymous().get("/v2/fleets/FLT-A01").await.status, 401);
    let address = server.metrics_address().expect("an open port for metrics");
    let served = Api::new(address, None).get("/metrics").await.text;
    let kinds: BTreeMap<&str, &str> =
        served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for file in [DASHBOARD, ALERTS] {
        let queried = queried(&read(file));
        assert!(queried.len() >= 10, "{file}");
        for series in queried {
            let name = base(&series);
            assert!(documented.contains(name), "{file}: {series} is not documented");
            let Some(kind) = kinds.get(name) else { continue };
            let expected = match &series[name.len()..] {
                "_total" => "counter",
                "" => "gauge",
                _ => "histogram",
            };
            assert_eq!(*kind, expected, "{file}: {series}");
        }
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_can_show() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is taken");
        let at = |field: &str| panel["gridPos"][field].as_u64().expect("a place");
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && taken.insert((x, y)), "{title} lies outside or on another panel");
        }
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} shows nothing");
        for expr in targets.iter().map(|target| target["expr"].as_str().expect("a query")) {
            assert!(is_balanced(expr) && expr.contains("instance=~\"$instance\""), "{title}: {expr}");
        }
    }
    // whatever is documented can be seen
    let text = read(DASHBOARD);
    for name in quoted(&read("docs/metrics.md"), |word| word.starts_with("bongsu_")) {
        assert!(text.contains(&name), "{name} is on no panel");
    }
}

#[test]
fn every_alert_has_a_query_a_severity_and_two_sentences() {
    let text = read(ALERTS);
    assert!(!text.contains('\t'), "YAML is indented by spaces");
    let rules: Vec<&str> = text.split("      - alert: ").skip(1).collect();
    assert!(rules.len() >= 10);
    let names: BTreeSet<&str> = rules.iter().filter_map(|rule| rule.lines().next()).collect();
    assert_eq!(names.len(), rules.len(), "names are unique");
    for rule in rules {
        let rule = rule.split("\n  - name: ").next().expect("the rule itself");
        let value = |key: &str| {
            let start = format!("{key}: ");
            let found = rule.lines().find_map(|line| line.trim_start().strip_prefix(&start));
            found.unwrap_or_else(|| panic!("no {key}: {rule}"))
        };
        assert!(["critical", "warning"].contains(&value("severity")), "{rule}");
        for key in ["summary", "description"] {
            let sentence = value(key).strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            assert!(sentence.is_some_and(|text| !text.is_empty() && !text.contains('"')), "{key}: {rule}");
        }
        let (_, query) = rule.split_once("expr: ").expect("a query");
        let (query, _) = query.split_once("\n        labels:").expect("labels after it");
        assert!(is_balanced(query), "{query}");
        for line in rule.lines().skip(1).filter(|line| !line.is_empty()) {
            let indentation = line.len() - line.trim_start().len();
            assert!(indentation >= 8 && indentation % 2 == 0, "{line}");
        }
    }
}

/// Whether every bracket and quote of a query is closed.
fn is_balanced(query: &str) -> bool {
    let count = |wanted: char| query.chars().filter(|c| *c == wanted).count();
    [('(', ')'), ('{', '}'), ('[', ']')].iter().all(|(open, close)| count(*open) == count(*close))
        && count('"') % 2 == 0
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let named = quoted(&read("docs/guarantees.md"), |word| word.contains("::"));
    assert!(named.len() >= 20, "{} promises", named.len());
    for name in named {
        let (module, function) = name.rsplit_once("::").expect("has one");
        let file = match module.strip_prefix("it::") {
            Some(module) => format!("tests/it/{}.rs", module.replace("::", "/")),
            None => format!("src/{}.rs", module.trim_end_matches("::tests").replace("::", "/")),
        };
        assert!(read(&file).contains(&format!("fn {function}(")), "{name}: no such test in {file}");
    }
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let folder = in_package("docs/decisions");
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
