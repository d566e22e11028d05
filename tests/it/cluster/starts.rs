//! A start that cannot work, or that works at a risk, says so by name and says what to do.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::support::tls::Certificates;
use crate::support::{Redis, Server, ServerOptions, eventually, run_cli_with};

fn refused(options: ServerOptions) -> String {
    Server::refuse(options.cluster(1), "127.0.0.1:0")
}

fn at(url: impl ToString) -> ServerOptions {
    ServerOptions::default().env("REDIS_URL", url)
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

/// What a server says comes through a pipe, a moment later.
async fn logs(server: &Server, words: &[&str]) {
    for word in words {
        eventually(word, async || server.stderr().contains(word).then_some(())).await;
    }
}

#[tokio::test]
async fn a_redis_that_may_evict_the_log_is_warned_of() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let server = Server::with(at(redis.url()).cluster(1));
    logs(&server, &["WARN", "allkeys-lru", "maxmemory-policy", "noeviction"]).await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    assert_says(
        &refused(at(format!("redis://{free}"))),
        &["redis.url", &free.to_string(), "cannot be reached"],
    );
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_shown() {
    let redis = Redis::start().await;
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    for wrong in ["redis://:wr0ng@", "redis://"] {
        let said = refused(at(redis.url().replace("redis://", wrong)));
        assert_says(&said, &["redis.url", "password"]);
        assert!(!said.contains("wr0ng"), "{said}");
    }
    Server::with(at(redis.url().replace("redis://", "redis://:right@")).cluster(1));
}

#[tokio::test]
async fn a_user_that_may_not_do_what_is_needed_is_named() {
    let redis = Redis::start().await;
    redis.cli(&[
        "ACL",
        "SETUSER",
        "narrow",
        "on",
        ">secret",
        "~bongsu:*",
        "&bongsu:*",
        "+@all",
        "-eval",
        "-evalsha",
    ]);
    let url = redis.url().replace("redis://", "redis://narrow:secret@");
    assert_says(&refused(at(url)), &["redis.url", "permission"]);
    // what the documentation says is enough
    redis.cli(&[
        "ACL",
        "SETUSER",
        "node",
        "on",
        ">secret",
        "~mine:*",
        "&mine:*",
        "~metrics:realtime:*",
        "-@all",
    ]);
    for command in crate::support::redis::needed_commands() {
        redis.cli(&["ACL", "SETUSER", "node", &format!("+{command}")]);
    }
    let url = redis.url().replace("redis://", "redis://node:secret@");
    let options = at(url).set("redis.prefix", "mine:").set("redis.mirror", true).set("redis.ingest", false);
    let server = Server::with(options.cluster(2));
    let mut stream = server.api().listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    server.api().update_ei("FLT-A01", 1.0).await;
    assert_eq!(stream.take(1).await[0].event, "ei_updated");
    eventually("the figures", async || {
        (redis.cli(&["GET", "metrics:realtime:connections"]) == "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_read_only_replica_is_named() {
    let master = Redis::start().await;
    let port = master.address().port().to_string();
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
    assert_says(&refused(at(replica.url())), &["redis.url", "replica", "master"]);
}

#[tokio::test]
async fn keys_of_somebody_else_below_the_prefix_are_named() {
    let redis = Redis::start().await;
    redis.cli(&["SET", "bongsu:sessions", "1"]);
    let options = || at(redis.url()).set("redis.prefix", "bongsu:");
    assert_says(&refused(options()), &["redis.url", "bongsu:sessions", "redis.prefix"]);
    redis.cli(&["DEL", "bongsu:sessions"]);
    redis.cli(&["SET", "bongsu:{default}:meta", "1"]);
    assert_says(&refused(options()), &["bongsu:{default}:meta", "redis.prefix"]);
    redis.cli(&["DEL", "bongsu:{default}:meta"]);
    redis.cli(&["SET", "others:sessions", "1"]);
    Server::with(options().cluster(1));
    // what a cluster has left behind is its own
    Server::with(options().cluster(1));
}

#[tokio::test]
async fn a_log_of_a_newer_release_is_named() {
    let redis = Redis::start().await;
    let server = Server::with(at(redis.url()).set("redis.prefix", "bongsu:").cluster(1));
    server.api().publish("topic:a", "tick", serde_json::json!({})).await;
    redis.cli(&["HSET", "bongsu:{default}:meta", "since", "99"]);
    let event = serde_json::json!({"topic": "topic:a", "type": "t", "data": {}});
    assert_eq!(server.api().post("/v2/events", &event).await.problem(503), "log_unavailable");
    logs(&server, &["newer release"]).await;
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_and_only_where_its_certificate_is_good() {
    let (own, other) = (Certificates::new(), Certificates::new());
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let path = |name| own.path(name).to_string_lossy().into_owned();
    let files = ["cert.pem", "key.pem", "ca.pem"].map(path);
    let port = free.port().to_string();
    let names =
        ["--tls-port", "--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file", "--tls-auth-clients"];
    let values = [port.as_str(), &files[0], &files[1], &files[2], "no"];
    let args: Vec<&str> = names.into_iter().zip(values).flat_map(|(name, value)| [name, value]).collect();
    let redis = Redis::with(&args).await;
    let options = |certificates: &Certificates| {
        at(format!("rediss://localhost:{port}"))
            .set("redis.tls_ca", certificates.path("ca.pem").display())
            .set("redis.require_tls", true)
    };
    assert_says(&refused(options(&other)), &["redis.url", "cannot be reached", "certificate"]);
    let server = Server::with(options(&own).cluster(2));
    let mut stream = server.api().at(0).listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    server.api().at(1).update_ei("FLT-A01", 1.0).await;
    assert_eq!(stream.take(1).await[0].event, "ei_updated");
    let plain = format!("redis://{}:1", "192.0.2.1");
    assert_says(
        &refused(at(plain).set("redis.require_tls", true)),
        &["redis.url", "require_tls", "rediss://"],
    );
    drop(redis);
}

/// A server of another version, as far as a start asks it.
fn old_redis() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut answers = stream.try_clone().expect("a handle");
                let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
                while let Some(count) =
                    lines.next().and_then(|line| line.strip_prefix('*')?.parse::<usize>().ok())
                {
                    let words: Vec<String> = (0..count).filter_map(|_| lines.by_ref().nth(1)).collect();
                    let info =
                        "# Server\r\nredis_version:6.2.14\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n";
                    let answer = match words.first().map(|word| word.to_uppercase()).as_deref() {
                        Some("INFO") => format!("${}\r\n{info}\r\n", info.len()),
                        Some("HELLO") => "-ERR unknown command\r\n".to_owned(),
                        _ => "+OK\r\n".to_owned(),
                    };
                    if answers.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_named() {
    assert_says(&refused(at(format!("redis://{}", old_redis()))), &["redis.url", "6.2.14", "7.0", "upgrade"]);
}

#[test]
fn mixes_that_are_not_supported_are_named() {
    let url = "redis://127.0.0.1:1";
    for (env, words) in [
        (vec![("REDIS_URL", url)], ["redis.url", "DATABASE_URL"]),
        (
            vec![("REDIS_URL", "redis+ring://h/m"), ("DATABASE_URL", "postgres://h/d")],
            ["redis.url", "redis+sentinel://"],
        ),
        (vec![("REDIS_URL", "http://h"), ("DATABASE_URL", "postgres://h/d")], ["redis.url", "rediss"]),
        (
            vec![("REDIS_URL", url), ("DATABASE_URL", "postgres://h/d"), ("BONGSU__REDIS__PREFIX", "a{b}:")],
            ["redis.prefix", "braces"],
        ),
    ] {
        let (status, _, said) = run_cli_with(&env, &["check-config"]);
        assert!(!status.success(), "{env:?}");
        assert_says(&said, &words);
    }
}
