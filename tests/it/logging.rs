//! Log lines: what they hold, where they go, and what must never be in them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Logged, Server, ServerOptions, at_level, eventually, says};

fn dated(directory: &Path, kind: &str) -> usize {
    let names = std::fs::read_dir(directory).expect("readable").map(|entry| {
        let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
        name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(".2") && rest.ends_with(".log"))
    });
    names.filter(|is_one| *is_one).count()
}

#[tokio::test]
async fn errors_go_to_both_files_and_everything_else_to_one() {
    let logged = Logged::start("info");
    let mut stream = logged.server.api().listen("topic:news", None).await;
    stream.ready().await;
    logged.reread("this is no configuration");
    let is_refusal = says("the configuration could not be reread; nothing changed");
    logged.line("combined.log", &is_refusal).await;
    logged.line("error.log", &is_refusal).await;
    assert!(logged.lines("error.log").iter().all(|line| line["level"] == "ERROR"));
    let combined = logged.lines("combined.log");
    assert!(combined.iter().any(|line| line["level"] == "INFO"));
    for line in combined {
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
    }
    let told = async || logged.server.stderr().contains("could not be reread").then_some(());
    eventually("the line on standard error", told).await;
}

#[tokio::test]
async fn a_level_that_is_reread_applies_to_the_files() {
    let logged = Logged::start("warn");
    let api = logged.server.api();
    api.get("/health").await.expect(200);
    logged.reread(&at_level("debug"));
    let answered = |line: &Value| line["message"] == "answered" && line["path"] == "/ready";
    let found = eventually("a debug line in the file", async || {
        api.get("/ready").await.expect(200);
        logged.lines("combined.log").into_iter().find(answered)
    });
    assert_eq!(found.await["level"], "DEBUG");
    assert!(logged.lines("combined.log").iter().all(|line| line["path"] != "/health"), "before the reload");
    logged.reread(&at_level("error"));
    eventually("silence", async || {
        let before = logged.lines("combined.log").len();
        api.get("/ready").await.expect(200);
        api.get("/ready").await.expect(200);
        (logged.lines("combined.log").len() == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_tickets_and_queries_are_in_no_line() {
    let logged = Logged::start("debug");
    let api = logged.server.api();
    let request = json!({"path": "/v2/realtime/stream", "topics": ["topic:news"]});
    let issued = api.post("/v2/realtime/tickets", &request).await;
    assert!((200..300).contains(&issued.status), "{}", issued.text);
    let ticket = issued.json()["ticket"].as_str().expect("a ticket").to_owned();
    let path = format!("/v2/realtime/stream?topics=topic:news&ticket={ticket}");
    let mut stream = api.anonymous().stream(&path, None).await;
    stream.ready().await;
    api.publish("topic:news", "note", json!({"text": "between-us"})).await;
    stream.expect("note").await;
    let refused = logged.server.api_with("bk_neverissued_neverissuedneverissued");
    assert_eq!(refused.get("/v2/realtime/stream?topics=topic:in-a-query").await.status, 401);
    logged.line("combined.log", |line| line["status"] == 401).await;
    drop(stream);
    logged.line("combined.log", says("disconnected")).await;
    for (place, text) in [
        ("combined.log", logged.text("combined.log")),
        ("error.log", logged.text("error.log")),
        ("standard error", logged.server.stderr()),
    ] {
        for secret in [api.key(), &ticket, "neverissued", "between-us", "in-a-query"] {
            assert!(!text.contains(secret), "{place} holds {secret}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_ends_the_start_and_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let directory = file.path().join("logs").display().to_string();
    let error = Server::refuse(ServerOptions::default().set("logging.dir", &directory), "127.0.0.1:0");
    assert!(error.contains("logging.dir") && error.contains(&directory), "{error}");
}

#[tokio::test]
async fn old_files_are_deleted_and_those_of_others_stay() {
    let mut logged = Logged::with("info", ServerOptions::default().set("logging.max_files", 2));
    let logs = logged.files.path().join("logs");
    for name in ["error.2020-01-01.log", "error.2020-01-02.log", "error.2020-01-03.log", "mine.txt"] {
        std::fs::write(logs.join(name), "{}\n").expect("writable");
    }
    logged.server.restart(|options| options);
    assert!((1..=2).contains(&dated(&logs, "error")), "two days");
    assert_eq!(dated(&logs, "combined"), 1, "a restart goes on in the day's file");
    assert!(logs.join("mine.txt").exists());
    assert!(logs.join("error.log").is_symlink() && logs.join("error.log").exists());
}

#[tokio::test]
async fn a_connection_is_logged_when_it_opens_and_when_it_ends() {
    let logged = Logged::start("info");
    let api = logged.server.api();
    let name = "probe/1.0 (\"quoted\")".to_owned() + &" padded".repeat(100);
    let request = api
        .request("GET", "/v2/realtime/stream?topics=topic:a,topic:b")
        .header("Accept", "text/event-stream")
        .header("User-Agent", &name);
    let mut stream = crate::support::Sse::open(request).await;
    let id = stream.ready().await["connection_id"].clone();
    let connected = logged.line("combined.log", says("connected")).await;
    assert_eq!((&connected["connection_id"], connected["level"].as_str()), (&id, Some("INFO")));
    assert_eq!(
        (connected["tenant"].as_str(), connected["transport"].as_str()),
        (Some("default"), Some("sse"))
    );
    assert_eq!((connected["ip"].as_str(), connected["topics"].as_u64()), (Some("127.0.0.1"), Some(2)));
    assert_eq!(connected["user_agent"], name[..160], "the start of a long one");
    assert!(connected.get("user_id").is_none(), "a key is no user");
    drop(stream);
    let ended = logged.line("combined.log", says("disconnected")).await;
    for field in ["connection_id", "tenant", "transport", "ip", "user_agent", "level"] {
        assert_eq!(ended[field], connected[field], "{field}");
    }
    assert_eq!((ended["reason"].as_str(), ended["code"].as_u64()), (Some("client_left"), Some(0)));
    assert!(ended["duration_ms"].is_u64() && ended["bytes"].as_u64() > Some(0), "{ended}");
}

#[tokio::test]
async fn a_users_connection_is_logged_with_the_user() {
    let logged = Logged::start("info");
    let api = logged.server.api_with(&logged.server.create_key("subscribe,act_as_user"));
    let request = api.request("GET", "/v2/realtime/stream?topics=topic:news").header("X-User-Id", "u-7");
    crate::support::Sse::open(request).await.ready().await;
    for message in ["connected", "disconnected"] {
        assert_eq!(logged.line("combined.log", says(message)).await["user_id"], "u-7", "{message}");
    }
}

#[tokio::test]
async fn the_line_of_a_closed_connection_says_why() {
    let logged = Logged::start("info");
    let mut stream = logged.server.api().listen("topic:news", None).await;
    stream.ready().await;
    logged.server.signal("TERM");
    stream.rest().await;
    let ended = logged.line("combined.log", says("disconnected")).await;
    assert_eq!((ended["reason"].as_str(), ended["code"].as_u64()), (Some("draining"), Some(3000)));
}
