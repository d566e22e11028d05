//! The shape of the code, read from its `use` lines: what may know what.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::support::in_package;

/// From the ground up; a module may know those of lower layers, and those of its own.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["clock", "settings", "telemetry"],
    &["storage", "log", "actor_kit", "wire", "bridge", "jobs"],
    &[
        "sessions",
        "rooms",
        "fleets",
        "accounts",
        "identity",
        "topics",
        "publishing",
        "limits",
        "orders",
        "bids",
        "bench",
    ],
    &["http"],
    &["engine"],
    &["cli"],
];

/// Files whose logic has no runtime in it.
const PURE: &[&str] = &[
    "rooms/registry.rs",
    "rooms/room.rs",
    "sessions/session.rs",
    "sessions/queue_metrics.rs",
    "sessions/requests.rs",
    "sessions/assembly.rs",
    "sessions/batch.rs",
    "sessions/poll_answer.rs",
    "log/joining.rs",
    "log/window.rs",
    "log/recovery.rs",
    "log/retention.rs",
    "bridge/follower.rs",
    "bridge/interop.rs",
    "bridge/keys.rs",
    "bridge/mirror.rs",
    "bridge/servers/layout.rs",
    "fleets/fleet.rs",
    "orders/order.rs",
    "bids/bid.rs",
    "bids/copies/carriers.rs",
    "bids/copies/followed.rs",
    "bids/copies/seen.rs",
    "bids/criteria.rs",
    "bids/frame.rs",
    "bids/proposal.rs",
    "bids/views.rs",
    "bids/ranking/bid_ranking.rs",
    "bids/ranking/order_statistics.rs",
    "bids/ranking/plan.rs",
    "accounts/account.rs",
    "jobs/job.rs",
    "identity/rights.rs",
    "identity/token.rs",
    "identity/claims.rs",
    "identity/compat.rs",
    "identity/revoked.rs",
    "topics/membership.rs",
    "topics/grants.rs",
    "topics/entities.rs",
    "topics/known.rs",
    "publishing/publish.rs",
    "limits/address.rs",
    "limits/admission.rs",
    "limits/block_list.rs",
    "limits/bucket.rs",
    "limits/buckets.rs",
    "limits/forwarded.rs",
    "limits/limiter.rs",
    "limits/rules.rs",
    "limits/slowdown.rs",
];

/// Where a dependency may be named: folders, files, or the ending of a file's name.
const CONFINED: &[(&str, &[&str])] = &[
    ("actix", &["actor_kit", "engine", "_actor.rs"]),
    ("actix_rt", &["actor_kit", "engine", "_actor.rs"]),
    ("actix_web", &["http", "engine", "sessions/sse.rs"]),
    ("actix_http", &["http", "engine", "sessions/ws.rs", "sessions/stream_connection.rs"]),
    ("actix_codec", &["http", "engine", "sessions/ws.rs", "sessions/stream_connection.rs"]),
    ("actix_tls", &["engine"]),
    ("rustls", &["engine", "cli", "identity/jwks.rs", "storage/postgres/tls.rs"]),
    ("tokio_postgres", &["storage"]),
    ("diesel", &["storage"]),
    ("diesel_async", &["storage"]),
    ("redis", &["bridge"]),
    ("reqwest", &["cli", "identity/jwks.rs"]),
    ("jsonwebtoken", &["identity"]),
    ("prometheus_client", &["telemetry", "sessions/queue_metrics.rs"]),
    ("tracing_appender", &["telemetry"]),
    ("clap", &["cli", "main.rs", "bench"]),
];

struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = in_package("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path: PathBuf = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(".rs") && !path.to_string_lossy().ends_with("_test.rs")
            {
                let text = fs::read_to_string(&path).expect("text");
                // tests at a file's end may use what its logic may not
                let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                let path = path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 50);
    found
}

/// The crate's modules that a file names, in `use` lines or in paths.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

#[test]
fn dependencies_point_downwards() {
    for source in sources() {
        let own = module_of(&source.path);
        if matches!(own, "main" | "lib") {
            continue;
        }
        let own_layer = layer(own).unwrap_or_else(|| panic!("{} has no layer", source.path));
        for named in named_modules(&source.text) {
            let Some(named_layer) = layer(&named) else { continue };
            assert!(named_layer <= own_layer, "{} ({own}) knows {named}, which stands above it", source.path);
        }
    }
}

#[test]
fn capabilities_do_not_know_each_others_shells() {
    for source in sources() {
        let own = module_of(&source.path);
        if layer(own) != layer("rooms") {
            continue;
        }
        for line in source.text.lines().filter(|line| line.trim_start().starts_with("use crate::")) {
            let named = named_modules(line);
            let foreign = !named.contains(own);
            assert!(!(foreign && line.contains("Actor")), "{}: {line}", source.path);
        }
    }
}

#[test]
fn each_library_is_known_only_where_it_belongs() {
    for source in sources() {
        for (library, places) in CONFINED {
            let names = |text: &str| {
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                code.flat_map(|line| {
                    line.match_indices(&format!("{library}::")).map(|(at, _)| (line, at)).collect::<Vec<_>>()
                })
                .any(|(line, at)| {
                    at == 0
                        || !line.as_bytes()[at - 1].is_ascii_alphanumeric() && line.as_bytes()[at - 1] != b'_'
                })
            };
            let allowed = places.iter().any(|place| match place.ends_with(".rs") {
                true => source.path.ends_with(place),
                false => module_of(&source.path) == *place,
            });
            assert!(allowed || !names(&source.text), "{} names {library}", source.path);
        }
    }
}

#[test]
fn logic_has_no_runtime_in_it() {
    let sources = sources();
    for path in PURE {
        let source =
            sources.iter().find(|source| source.path == *path).unwrap_or_else(|| panic!("no {path}"));
        for word in ["actix", "tokio", "diesel", "async fn", "async move", ".await"] {
            let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
            assert!(!code.into_iter().any(|line| line.contains(word)), "{path} holds {word}");
        }
    }
}

#[test]
fn files_are_named_for_what_they_hold_and_stay_short() {
    for source in sources() {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        let telling =
            !["mod.rs", "utils.rs", "common.rs", "helpers.rs", "types.rs", "misc.rs"].contains(&name);
        assert!(telling, "{}", source.path);
        assert!(source.text.lines().count() <= 400, "{} is long", source.path);
    }
}

#[test]
fn every_public_face_says_what_it_is_for() {
    for source in sources().iter().filter(|source| !source.path.contains('/') && source.path != "lib.rs") {
        assert!(source.text.starts_with("//!"), "{}", source.path);
    }
}
