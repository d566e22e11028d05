//! The load generator: it counts what a server really delivered.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Backend, Fake, Server, ServerOptions, redis, run_cli};

/// A measurement to its end: its report.
fn bench(mode: &str, address: &str, key: &str, options: &[&str]) -> Value {
    let args = [&["bench", mode, "--json", "--address", address, "--api-key", key], options].concat();
    let (status, out, err) = run_cli(&args);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""), "progress is for terminals: {out}");
    serde_json::from_str(&out).expect("a report")
}

fn fanout(server: &Server, options: &[&str]) -> Value {
    let pid = server.pid().to_string();
    let options = [&["--server-pid", &pid, "--seconds", "0.5"], options].concat();
    bench("fanout", &server.address().to_string(), server.key(), &options)
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} of {report}"))
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

/// What is wrong with the deliveries of a report.
fn wrong(report: &Value, names: &[&str]) -> u64 {
    names.iter().map(|name| count(report, name)).sum()
}

/// Two nodes over one Redis, with open metrics.
fn cluster() -> Server {
    Server::with(ServerOptions::default().cluster(2).unlimited().set("metrics.bind", "127.0.0.1:0"))
}

#[test]
fn every_delivery_to_listeners_of_several_topics_is_counted_over_both_transports() {
    let server = Server::with(ServerOptions::default().unlimited());
    for transport in ["sse", "websocket"] {
        // 30 listeners on 4 topics: 8, 8, 7 and 7.
        let options =
            ["--transport", transport, "--connections", "30", "--topics", "4", "--rate-per-s", "40"];
        let report = fanout(&server, &options);
        let rounds = [0, 8, 16, 23];
        let publishes = count(&report, "publishes");
        let expected = publishes / 4 * 30 + rounds[(publishes % 4) as usize];
        assert!(publishes >= 4, "{report}");
        assert_eq!(count(&report, "deliveries_expected"), expected, "{transport}: {report}");
        assert_eq!(count(&report, "deliveries_received"), expected, "{transport}: {report}");
        let names = ["deliveries_lost", "deliveries_duplicate", "connections_dropped"];
        assert_eq!(wrong(&report, &names), 0, "{report}");
    }
}

#[test]
fn memory_is_told_for_every_wave_and_after_a_burst() {
    let server = Server::with(ServerOptions::default().unlimited());
    let options = [
        "--connections",
        "20",
        "--waves",
        "2",
        "--burst-bytes",
        "20000",
        "--rate-per-s",
        "0",
        "--ahead",
        "4",
    ];
    let report = fanout(&server, &options);
    for name in ["rss_waves_kib", "rss_waves_per_connection_kib"] {
        assert_eq!(report[name].as_array().map(Vec::len), Some(2), "{name} of {report}");
    }
    assert!(report["rss_burst_per_connection_kib"].is_f64(), "{report}");
    assert_eq!(count(&report, "deliveries_lost") + count(&report, "burst_deliveries_lost"), 0, "{report}");
    assert_eq!(count(&report, "deliveries_received"), count(&report, "publishes") * 20, "{report}");
}

#[test]
fn what_could_not_be_told_apart_is_refused() {
    let refused = |mode: &str, options: &[&str]| {
        let (status, _, err) = run_cli(&[&["bench", mode, "--address", "127.0.0.1:9"], options].concat());
        assert_eq!(status.code(), Some(1), "{err}");
        err
    };
    // numbers of one topic, so far from their turn
    let many = ["--connections", "200", "--publishers", "65"];
    assert!(refused("fanout", &many).contains("64 for each topic"));
    assert!(refused("storm", &["--events", "10", "--matching", "3"]).contains("multiple of --matching"));
    assert!(refused("storm", &["--connections", "99"]).contains("more topics than --connections"));
}

#[test]
fn deliveries_are_counted_for_every_node_of_a_cluster() {
    let server = cluster();
    let addresses = list(&server.addresses());
    let options = ["--connections", "30", "--topics", "3", "--publishers", "4", "--rate-per-s", "60"];
    let report = bench("fanout", &addresses, server.key(), &[&options[..], &["--seconds", "0.5"]].concat());
    let nodes = report["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2, "{report}");
    for node in nodes {
        assert_eq!(count(node, "connections"), 15, "{report}");
        assert!(count(node, "deliveries_expected") >= 100, "{report}");
        assert_eq!(wrong(node, &["deliveries_lost", "deliveries_duplicate"]), 0, "{report}");
    }
}

#[test]
fn a_storm_on_a_cluster_brings_everybody_what_they_missed_and_reads_no_store() {
    let server = cluster();
    let (addresses, metrics) = (list(&server.addresses()), list(&server.metrics_addresses()));
    let small = ["--connections", "60", "--events", "100", "--matching", "5", "--rounds", "2"];
    for transport in ["sse", "websocket"] {
        let options = [&small[..], &["--metrics", &metrics, "--transport", transport]].concat();
        let report = bench("storm", &addresses, server.key(), &options);
        assert_eq!(wrong(&report, &["gaps", "duplicates", "unrecovered", "store_reads"]), 0, "{report}");
        for round in report["rounds"].as_array().expect("rounds") {
            assert_eq!(count(&round["storm"], "received"), 60 * 5, "{report}");
            assert_eq!(count(&round["plain"], "received"), 0, "{report}");
        }
        assert!(report["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
        assert!(report["redis_commands_per_s_storm"]["median"].is_f64(), "{report}");
    }
}

#[test]
fn clients_of_one_node_storm_another_one() {
    let server = cluster();
    let [from, to] = [0, 1].map(|node| server.addresses()[node].to_string());
    let small = ["--connections", "20", "--events", "40", "--matching", "4", "--rounds", "1"];
    let report = bench("storm", &from, server.key(), &[&small[..], &["--to", &to]].concat());
    assert_eq!((&report["addresses"][0], &report["to"][0]), (&Value::from(from), &Value::from(to)));
    assert_eq!(wrong(&report, &["gaps", "duplicates", "unrecovered"]), 0, "{report}");
    assert_eq!(count(&report["rounds"][0]["storm"], "received"), 20 * 4, "{report}");
    assert!(report["store_reads"].is_null(), "nobody was asked: {report}");
}

#[test]
fn a_store_that_had_to_be_read_is_counted() {
    let options = ServerOptions::default().unlimited().set("metrics.bind", "127.0.0.1:0");
    // of what was missed, the window keeps the least
    let server = Server::with(options.set("log.window_count", 16));
    let (address, metrics) = (server.address().to_string(), list(&server.metrics_addresses()));
    let small = ["--connections", "10", "--events", "100", "--matching", "10", "--rounds", "1"];
    let report = bench("storm", &address, server.key(), &[&small[..], &["--metrics", &metrics]].concat());
    assert_eq!(wrong(&report, &["gaps", "duplicates", "unrecovered"]), 0, "{report}");
    assert!(count(&report, "store_reads") >= 10, "{report}");
}

#[test]
fn events_that_a_server_loses_or_repeats_are_reported() {
    // of four missed events each of two clients lacks the second, and gets the third twice
    let fake = Fake::start(|numbers| match numbers {
        [first, _, third, rest @ ..] => [&[*first, *third, *third], rest].concat(),
        few => few.to_vec(),
    });
    let address = fake.address().to_string();
    let small = ["--connections", "2", "--events", "4", "--matching", "4", "--rounds", "1"];
    let report = bench("storm", &address, "none", &small);
    let storm = &report["rounds"][0]["storm"];
    assert_eq!((count(storm, "gaps"), count(storm, "duplicates")), (2, 2), "{report}");
    assert_eq!((count(storm, "expected"), count(storm, "received")), (8, 6), "{report}");
    assert_eq!((count(&report, "gaps"), count(&report, "duplicates")), (2, 2), "{report}");
}

#[test]
fn readings_reach_the_clients_of_another_node_and_are_timed_beside_a_server_and_a_floor() {
    let server = cluster();
    let beside = Server::with(ServerOptions { backend: Some(Backend::Embedded), ..Default::default() });
    let [at, listen] = [0, 1].map(|node| server.addresses()[node].to_string());
    let (alone, floor) = (beside.address().to_string(), redis::shared_url().replace("redis://", ""));
    let options = [
        ["--listen-address", &listen],
        ["--beside", &alone],
        ["--beside-api-key", beside.key()],
        ["--redis", &floor],
        ["--connections", "3"],
        ["--rate-per-s", "40"],
        ["--seconds", "0.5"],
        ["--rounds", "2"],
    ];
    let report = bench("commands", &at, server.key(), &options.concat());
    assert_eq!(wrong(&report, &["deliveries_lost", "deliveries_duplicate"]), 0, "{report}");
    let ways = report["ways"].as_array().expect("ways");
    assert_eq!(ways.iter().map(|way| &way["name"]).collect::<Vec<_>>(), ["nodes", "beside", "floor"]);
    for way in ways {
        let (commands, rounds) = (count(way, "commands"), way["rounds"].as_array().expect("rounds"));
        let listeners = if way["name"] == "floor" { 1 } else { 3 };
        assert!(commands >= 10, "{way}");
        let samples: u64 = rounds.iter().map(|round| count(round, "samples")).sum();
        assert_eq!((rounds.len(), samples), (2, commands * listeners), "{way}");
    }
}

#[test]
fn ranking_in_process_agrees_with_sorting_and_with_redis() {
    let redis = redis::shared_url().replace("redis://", "");
    let options = ["--sizes", "10,600", "--changes", "50", "--rounds", "3", "--redis", &redis];
    let (status, out, err) = run_cli(&[&["bench", "ranking", "--json"], &options[..]].concat());
    assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{out}");
    let report: Value = serde_json::from_str(&out).expect("a report");
    let sizes = report["in_process"].as_array().expect("sizes");
    assert_eq!(sizes.iter().map(|own| count(own, "proposals")).collect::<Vec<_>>(), [10, 600]);
    for own in sizes {
        let median = |name: &str| own[name]["median"].as_f64().unwrap_or_else(|| panic!("{name} of {own}"));
        for name in ["ranking_us", "sorting_us", "redis_us", "sorting_ratio", "redis_ratio"] {
            assert!(median(name) > 0.0, "{name} of {own}");
        }
        assert_eq!(count(own, "changes"), 50, "{own}");
    }
    assert_eq!((count(&report, "ranks_wrong"), &report["served"]), (0, &serde_json::json!([])), "{report}");
    let left = redis::cli(&redis::shared_url(), &["KEYS", "bongsu-bench-*"]);
    assert_eq!(left, "", "nothing is left behind");
    let (_, table, _) = run_cli(&["bench", "ranking", "--sizes", "10", "--changes", "5", "--rounds", "1"]);
    assert!(table.contains("10 proposals") && table.contains("ranks wrong             0"), "{table}");
}

#[test]
fn proposals_to_servers_are_counted_and_their_ranks_are_exact() {
    let options = ServerOptions::default().cluster(1).unlimited().set("limits.key_commands_per_s", 0);
    let server = Server::with(options.clone());
    let beside = Server::with(options.set("ranking.batch", 1));
    let alone = beside.address().to_string();
    let options = [
        ["--beside", &alone],
        ["--beside-api-key", beside.key()],
        ["--clients", "1,12"],
        ["--seconds", "0.3"],
        ["--rounds", "2"],
    ];
    let report = bench("ranking", &server.address().to_string(), server.key(), &options.concat());
    assert_eq!(count(&report, "ranks_wrong"), 0, "{report}");
    let served = report["served"].as_array().expect("numbers of clients");
    assert_eq!(served.iter().map(|own| count(own, "clients")).collect::<Vec<_>>(), [1, 12]);
    for own in served {
        for name in ["server", "beside"] {
            let rounds = own[name].as_array().expect("rounds");
            assert_eq!(rounds.len(), 2, "{own}");
            for round in rounds {
                let accepted = count(round, "accepted");
                assert!(accepted >= count(own, "clients"), "{own}");
                assert_eq!(count(&round["latency"], "samples"), accepted, "{own}");
            }
        }
        assert!(own["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{own}");
    }
}

/// As many transactions as there were changes where each has its own, and fewer where they share.
#[tokio::test]
async fn what_one_transaction_carries_out_at_most_is_a_setting() {
    for (batch, shares) in [(1, false), (256, true)] {
        let options = ServerOptions::default().unlimited().set("limits.key_commands_per_s", 0);
        let server = Server::with(options.set("ranking.batch", batch));
        let small = ["--clients", "32", "--seconds", "0.3", "--rounds", "1"];
        let report = bench("ranking", &server.address().to_string(), server.key(), &small);
        let accepted = count(&report["served"][0]["server"][0], "accepted") as f64;
        let turns = server.operator().metric("bongsu_ranking_batch_changes_count").await;
        assert_eq!(turns < accepted, shares, "{turns} for {accepted}: {report}");
        assert!(shares || turns == accepted, "{turns} for {accepted}");
    }
}
