//! The command line: what scripts rely on.

use std::path::Path;

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use serde_json::{Value, json};

use crate::support::{Program, Server, ServerOptions, binary, eventually, run_cli, run_cli_with};

/// Runs a command that has to succeed; its standard output as lines of JSON.
fn json_lines(args: &[&str]) -> Vec<Value> {
    let (status, out, err) = run_cli(args);
    assert_eq!(status.code(), Some(0), "{args:?}: {err}");
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Runs a command that has to fail with this code; what it says.
fn failure(code: i32, env: &[(&str, &str)], args: &[&str]) -> String {
    let (status, out, err) = run_cli_with(env, args);
    assert_eq!(status.code(), Some(code), "{args:?}: {out}{err}");
    err
}

/// A key command on a data directory, its answer as JSON.
fn key(data_dir: &Path, words: &[&str]) -> Vec<Value> {
    let data_dir = data_dir.to_string_lossy();
    let mut args = vec!["key"];
    args.extend_from_slice(words);
    args.extend(["--json", "--data-dir", &data_dir]);
    json_lines(&args)
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_with_a_server_running_and_without() {
    let mut server = Server::start();
    let create = ["create", "--tenant", "acme", "--scopes", "publish,subscribe"];
    let made = key(server.data_dir(), &create).remove(0);
    assert_eq!(made["tenant"], "acme");
    assert_eq!(made["scopes"], json!(["publish", "subscribe"]));
    let (key_id, secret) = (made["key_id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    let api = server.api_with(secret);
    api.publish("topic:cli", "at-once", 0.into()).await;
    let mut stream = api.listen("topic:cli", None).await;
    assert_eq!(stream.ready().await["tenant_id"], "acme");

    let list = |server: &Server| key(server.data_dir(), &["list", "--tenant", "acme"]);
    let listed = list(&server).remove(0);
    assert_eq!((listed["key_id"].as_str(), &listed["revoked_at"]), (Some(key_id), &Value::Null));
    assert!(!listed.to_string().contains(secret), "the key itself is listed");
    let revoked = key(server.data_dir(), &["revoke", key_id]);
    assert_eq!(revoked, [json!({"key_id": key_id, "revoked": true, "before": false})]);
    assert_eq!(stream.expect("close").await.data["code"], 3500);
    eventually("the key's refusal", async || (api.get("/v2/fleets").await.status == 401).then_some(())).await;

    server.kill();
    assert!(list(&server)[0]["revoked_at"].is_string());
    let made = key(server.data_dir(), &create).remove(0);
    assert_eq!(list(&server).len(), 2);
    server.restart(|options| options);
    let api = server.api_with(made["key"].as_str().expect("a key"));
    api.publish("topic:cli", "after", 0.into()).await;
    let data_dir = server.data_dir().to_string_lossy().into_owned();
    let said = failure(1, &[], &["key", "revoke", "none", "--data-dir", &data_dir]);
    assert!(said.contains("there is no key none"), "{said}");
    let said = failure(1, &[], &["key", "create", "--scopes", "fly", "--data-dir", &data_dir]);
    assert!(said.contains("there is no scope \"fly\""), "{said}");
}

#[test]
fn a_mistake_in_the_usage_exits_with_2() {
    for args in
        [&["frobnicate"][..], &["key", "create"], &["key", "revoke"], &["serve", "--nonsense"], &["tail"]]
    {
        let said = failure(2, &[], args);
        assert!(said.contains("Usage") || said.contains("--help"), "{said}");
    }
    let (status, out, _) = run_cli(&["--help"]);
    assert!(status.success() && out.contains("Examples:"), "{out}");
}

#[test]
fn check_config_shows_the_layers_and_no_secrets() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("own.toml");
    std::fs::write(&file, "[server]\nbacklog = 512\nworkers = 3\n[storage]\ndata_dir = \"from-file\"\n")
        .expect("writable");
    let file = file.to_string_lossy();
    let env = [
        ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1/db"),
        ("BONGSU__SERVER__WORKERS", "5"),
        ("BONGSU__STORAGE__DATA_DIR", "from-env"),
    ];
    let args = ["check-config", "--config", &file, "--data-dir", "from-flag", "--json"];
    let (status, out, err) = run_cli_with(&env, &args);
    assert!(status.success(), "{err}");
    assert!(!format!("{out}{err}").contains("hunter2"), "{out}");
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    let settings = &shown["settings"];
    assert_eq!(settings["server"]["backlog"], 512);
    assert_eq!(settings["server"]["workers"], 5);
    assert_eq!(settings["storage"]["data_dir"], "from-flag");
    assert_eq!(settings["storage"]["database_url"], "postgres://user:***@127.0.0.1/db");
    assert_eq!(settings["server"]["keep_alive_ms"], 30000);

    let said = failure(1, &[("BONGSU__SERVER__BACKLOGS", "1")], &["check-config"]);
    assert!(said.contains("unknown key `server.backlogs`, did you mean `server.backlog`?"), "{said}");
    let said = failure(1, &[("BONGSU__SERVER__BACKLOG", "1")], &["check-config"]);
    assert!(said.contains("server.backlog must be within 64-65535"), "{said}");
}

#[test]
fn migrate_runs_once_and_then_has_nothing_to_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data_dir = directory.path().to_string_lossy();
    let migrate = || json_lines(&["migrate", "--json", "--data-dir", &data_dir]).remove(0);
    assert!(!migrate()["migrations"].as_array().expect("a list").is_empty());
    assert_eq!(migrate(), json!({"migrations": []}));
}

#[tokio::test]
async fn two_migrations_of_one_postgresql_database_do_not_collide() {
    let Ok(url) = std::env::var("BONGSU_TEST_POSTGRES_URL") else {
        eprintln!("not tested on PostgreSQL: BONGSU_TEST_POSTGRES_URL is not set");
        return;
    };
    let name = format!("bongsu_migrate_{}", std::process::id());
    let mut server = AsyncPgConnection::establish(&url).await.expect("PostgreSQL answers");
    server.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("it creates");
    let (base, _) = url.rsplit_once('/').expect("a path");
    let own = format!("{base}/{name}");
    let migrate = || {
        let own = own.clone();
        tokio::task::spawn_blocking(move || {
            let (status, out, err) = run_cli_with(&[("DATABASE_URL", &own)], &["migrate", "--json"]);
            assert!(status.success(), "{err}");
            let done: Value = serde_json::from_str(&out).expect("JSON");
            done["migrations"].as_array().expect("a list").len()
        })
    };
    let (one, other) = tokio::join!(migrate(), migrate());
    let (one, other) = (one.expect("no panic"), other.expect("no panic"));
    assert!(one + other > 0 && one * other == 0, "{one} and {other}: one of them ran all");
    assert_eq!(migrate().await.expect("no panic"), 0);
    server.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("it drops");
}

#[tokio::test]
async fn development_keys_are_not_served_to_the_outside() {
    let mut server = Server::start();
    server.kill();
    let options = ServerOptions { data_dir: Some(server.data_dir().to_owned()), ..ServerOptions::default() };
    let said = Server::refuse(options, "0.0.0.0:0");
    assert!(said.starts_with("exit status: 1: "), "{said}");
    let key_id = key(server.data_dir(), &["list"])[0]["key_id"].as_str().expect("an id").to_owned();
    assert!(said.contains(&format!("bongsu key revoke {key_id}")), "{said}");
}

#[tokio::test]
async fn tail_ends_when_nobody_reads_what_it_prints() {
    let server = Server::start();
    let url = format!("http://{}", server.address());
    let words = ["tail", "--topics", "topic:cli", "--json", "--url", &url, "--key", server.key()];
    let mut tail = Program::start(binary(), &words, &[]);
    tail.find(|line| line.contains("\"ready\"").then_some(())).await;
    // as `| head -1` does; nothing is published afterwards
    assert!(tail.stop_reading().await.success());
}

#[test]
fn processes_that_migrate_an_embedded_database_at_once_take_turns() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().to_string_lossy().into_owned();
    let migrate = || json_lines(&["migrate", "--json", "--data-dir", &data_dir]).remove(0);
    let ran: Vec<Value> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..6).map(|_| scope.spawn(migrate)).collect();
        started.into_iter().map(|own| own.join().expect("it succeeds")).collect()
    });
    let lists = ran.iter().map(|own| own["migrations"].as_array().expect("a list").len());
    assert_eq!(lists.filter(|count| *count > 0).count(), 1, "{ran:?}");
}

#[tokio::test]
async fn a_server_listens_where_a_name_says() {
    let server = Server::with(ServerOptions::default().set("server.bind", "localhost:0"));
    assert!(server.address().ip().is_loopback());
    server.api().publish("topic:cli", "here", 0.into()).await;
    let said = failure(1, &[("BONGSU__SERVER__BIND", "no-such-host.invalid:1")], &["check-config"]);
    assert!(said.contains("server.bind"), "{said}");
}

#[tokio::test]
async fn publish_and_tail_work_in_a_terminal_and_tail_resumes_over_a_restart() {
    let mut server = Server::with(ServerOptions::default().set("sessions.retry_ms", 200));
    let (url, key) = (server.api().url(""), server.key().to_owned());
    let to = ["--url", url.as_str(), "--key", key.as_str()];
    let mut tail = Program::start(
        binary(),
        &[&["tail", "--topics", "topic:cli", "--count", "6", "--json"][..], &to].concat(),
        &[],
    );
    tail.find(|line| line.contains("\"ready\"").then_some(())).await;
    let publish = |count: u64| {
        let data = json!({"count": count}).to_string();
        let words = ["publish", "--topic", "topic:cli", "--type", "counted", "--json", "--data", &data];
        let answer = json_lines(&[&words[..], &to].concat()).remove(0);
        assert_eq!(answer["duplicate"], false);
    };
    (0..3).for_each(publish);
    server.kill();
    server.restart(|options| options);
    (3..6).for_each(publish);
    let (mut counts, mut resumed) = (Vec::new(), false);
    while let Some(line) = tail.line().await {
        let seen: Value = serde_json::from_str(&line).expect("JSON");
        resumed |= seen["event"] == "ready" && seen["data"]["recovered"] == true;
        counts.extend(seen["data"]["count"].as_u64());
    }
    assert!(resumed, "it did not reconnect");
    assert_eq!(counts, [0, 1, 2, 3, 4, 5]);
    assert!(tail.end().await.success());

    let words = ["publish", "--topic", "topic:cli", "--type", "a", "--data", "{no json"];
    let said = failure(1, &[], &[&words[..], &to].concat());
    assert!(said.contains("--data is not JSON"), "{said}");
    let words = ["publish", "--topic", "topic:cli", "--type", "a", "--url", &url, "--key", "wrong"];
    assert!(failure(1, &[], &words).contains("401"));
    let words = ["tail", "--topics", "topic:cli", "--url", &url, "--key", "wrong"];
    assert!(failure(1, &[], &words).contains("401"));
}

#[tokio::test]
async fn openapi_describes_only_what_is_served() {
    let document = {
        let (status, out, err) = run_cli(&["openapi"]);
        assert!(status.success(), "{err}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"));
    let server = Server::start();
    let api = server.api();
    assert_eq!(api.get("/openapi.json").await.expect(200), document);
    let missing = api.get("/v2/no/such/route").await.problem(404);
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 10, "{}", paths.len());
    for (path, operations) in paths {
        let path = path.replace(['{', '}'], "");
        for method in operations.as_object().expect("operations").keys() {
            if !["get", "post", "put", "delete", "patch"].contains(&method.as_str()) {
                continue;
            }
            let request = api.request(&method.to_uppercase(), &path);
            let answer = crate::support::Api::send(request).await.expect("an answer");
            assert!(answer.status != 405 && !answer.text.contains(&missing), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn sighup_rereads_the_log_level() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("own.toml");
    let level = |level: &str| std::fs::write(&file, format!("[logging]\nlevel = \"{level}\"\n"));
    level("error").expect("writable");
    let server = Server::with(ServerOptions {
        args: vec!["--config".into(), file.to_string_lossy().into_owned()],
        ..ServerOptions::default()
    });
    let api = server.api();
    api.listen("topic:cli", None).await.ready().await;
    assert_eq!(server.stderr(), "");
    level("bongsu=debug").expect("writable");
    server.signal("HUP");
    eventually("the new level", async || server.stderr().contains("configuration reread").then_some(()))
        .await;
    api.listen("topic:cli", None).await.ready().await;
    eventually("a debug line", async || server.stderr().contains("connected").then_some(())).await;
    level("][").expect("writable");
    server.signal("HUP");
    eventually("an error", async || server.stderr().contains("nothing changed").then_some(())).await;
    api.publish("topic:cli", "after", 0.into()).await;
}

#[tokio::test]
async fn logs_for_machines_are_lines_of_json() {
    let options = ServerOptions::default();
    let server = Server::with(options.set("logging.format", "json").set("logging.level", "bongsu=debug"));
    let api = server.api();
    api.listen("topic:cli", None).await.ready().await;
    eventually("a line about the stream", async || server.stderr().contains("disconnected").then_some(()))
        .await;
    let stderr = server.stderr();
    let (whole, _) = stderr.rsplit_once('\n').expect("lines");
    let lines: Vec<Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let connected = lines.iter().find(|line| line["message"] == "connected").expect("a line");
    assert_eq!((&connected["level"], &connected["tenant"]), (&json!("INFO"), &json!("default")));
    assert!(!stderr.contains(server.key()), "a key in the log");
}
