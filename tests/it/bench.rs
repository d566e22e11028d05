//! The load generator: it counts what a server really delivered.

use serde_json::Value;

use crate::support::{Server, ServerOptions, run_cli};

fn fanout(server: &Server, options: &[&str]) -> Value {
    let (address, pid) = (server.address().to_string(), server.pid().to_string());
    let mut args = vec!["bench", "fanout", "--json", "--address", &address, "--api-key", server.key()];
    args.extend(["--server-pid", &pid, "--seconds", "0.5"]);
    args.extend(options);
    let (status, out, err) = run_cli(&args);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""), "progress is for terminals: {out}");
    serde_json::from_str(&out).expect("a report")
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} of {report}"))
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
        assert_eq!(count(&report, "deliveries_lost") + count(&report, "connections_dropped"), 0, "{report}");
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
