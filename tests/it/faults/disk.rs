//! A disk that is full or cannot be written: writes are refused, nothing is damaged, streams go on.

use serde_json::json;

use crate::support::{
    Answer, Api, Frozen, Outsider, Server, ServerOptions, SmallDisk, Sse, Ws, eventually, not_tested,
};

/// Options under which a refusal comes soon and heartbeats are frequent.
fn impatient() -> ServerOptions {
    ServerOptions::default().set("storage.wait_ms", 300).set("sessions.heartbeat_ms", 100)
}

async fn try_publish(api: &Api, count: u64, bytes: usize) -> Answer {
    let data = json!({"count": count, "filling": "x".repeat(bytes)});
    let body = json!({"topic": "topic:disk", "type": "filled", "data": data});
    api.post("/v2/events", &body).await
}

/// A refused write says so, as a problem, and when to come back.
fn assert_refused(answer: Answer) {
    assert_eq!(answer.headers["retry-after"], "1");
    let code = answer.problem(503);
    assert!(["log_unavailable", "store_unavailable"].contains(&code.as_str()), "{code}");
}

/// The stream is still open and alive: it gets heartbeats that were not on their way before.
async fn assert_alive(stream: &mut Sse) {
    for _ in 0..3 {
        eventually("a heartbeat", async || {
            let event = stream.next().await.expect("the stream goes on");
            (event.event == "heartbeat").then_some(())
        })
        .await;
    }
}

/// Publishes until even small events are refused; how many were taken.
async fn fill(api: &Api) -> u64 {
    let mut taken = 0;
    for bytes in [50_000, 5_000, 100] {
        for tries in 0.. {
            assert!(tries < 1000, "it never fills");
            let answer = try_publish(api, taken, bytes).await;
            if answer.status != 202 {
                assert_refused(answer);
                break;
            }
            taken += 1;
        }
    }
    taken
}

/// Domain writes end in a refusal too; the last version that was accepted.
async fn fill_with_updates(api: &Api) -> i64 {
    for version in 1..1000 {
        let update = json!({"fleet_id": "FLT-A01", "new_ei": version});
        let answer = api.post("/v2/fleet/ei-update", &update).await;
        if answer.status != 200 {
            assert_refused(answer);
            return version - 1;
        }
    }
    panic!("it never fills");
}

/// Writes work again without a restart; then everything that was answered is there, once, also after one.
async fn assert_recovered(mut server: Server, cursor: &str, (taken, version): (u64, i64)) {
    let api = server.api();
    eventually("a write", async || {
        let answer = try_publish(&api, taken, 10).await;
        (answer.status == 202).then_some(())
    })
    .await;
    assert_eq!(api.update_ei("FLT-A01", 1.0).await["version"], version + 1);
    for restarted in [false, true] {
        if restarted {
            server.kill();
            Outsider::open(server.data_dir()).assert_whole();
            server.restart(|options| options);
        }
        let mut stream = api.listen("topic:disk,fleet:FLT-A01", Some(cursor)).await;
        assert_eq!(stream.ready().await["recovered"], true);
        let events = stream.take((taken + 1) as usize + (version + 1) as usize).await;
        let of = |name: &str, field: &str| -> Vec<u64> {
            let own = events.iter().filter(|event| event.event == name);
            own.map(|event| event.data["data"][field].as_u64().expect("a number")).collect()
        };
        assert_eq!(of("filled", "count"), (0..=taken).collect::<Vec<_>>());
        assert_eq!(of("ei_updated", "version"), (1..=version as u64 + 1).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_database_at_its_largest_size_refuses_writes_until_there_is_room() {
    let server = Server::with(impatient().set("storage.max_database_bytes", 2_000_000));
    let api = server.api();
    let mut stream = api.listen("topic:other", None).await;
    let cursor = stream.ready().await["position"].as_str().unwrap().to_owned();
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("CREATE TABLE ballast (filling BLOB); INSERT INTO ballast VALUES (zeroblob(1000000))");
    let taken = fill(&api).await;
    let version = fill_with_updates(&api).await;
    assert!(taken > 0);
    assert_alive(&mut stream).await;
    assert_eq!(api.get("/health").await.status, 200);
    assert!(server.stderr().contains("full"), "not for want of room");
    outsider.run("DROP TABLE ballast");
    assert_recovered(server, &cursor, (taken, version)).await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let Some(disk) = SmallDisk::mount("8m") else {
        not_tested("a full file system: mounting is not permitted here");
        return;
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4_000_000]).expect("it fits");
    let mut options = impatient();
    options.data_dir = Some(disk.path().to_owned());
    let server = Server::with(options);
    let api = server.api();
    let mut stream = api.listen("topic:other", None).await;
    let cursor = stream.ready().await["position"].as_str().unwrap().to_owned();
    let taken = fill(&api).await;
    let version = fill_with_updates(&api).await;
    assert!(taken > 0);
    assert!(std::fs::write(disk.path().join("more"), vec![1; 200_000]).is_err(), "the disk is not full");
    assert!(server.stderr().contains("full"), "not for want of room");
    assert_alive(&mut stream).await;
    assert_eq!(api.get("/health").await.status, 200);
    std::fs::remove_file(&ballast).expect("it is there");
    std::fs::remove_file(disk.path().join("more")).expect("it is there");
    assert_recovered(server, &cursor, (taken, version)).await;
}

#[tokio::test]
async fn a_database_locked_by_another_process_refuses_writes_and_still_reads() {
    let server = Server::with(impatient());
    let api = server.api();
    let mut stream = api.listen("topic:disk", None).await;
    let cursor = stream.ready().await["position"].as_str().unwrap().to_owned();
    assert_eq!(try_publish(&api, 0, 10).await.status, 202);
    api.update_ei("FLT-A01", 1.0).await;
    stream.expect("filled").await;
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    for _ in 0..3 {
        assert_refused(try_publish(&api, 1, 10).await);
        let update = json!({"fleet_id": "FLT-A01", "new_ei": 2});
        assert_refused(api.post("/v2/fleet/ei-update", &update).await);
    }
    assert_alive(&mut stream).await;
    let fleet = api.get("/v2/fleets/FLT-A01").await.expect(200);
    assert_eq!(fleet["version"], 1);
    let mut replay = api.listen("topic:disk", Some(&cursor)).await;
    assert_eq!(replay.ready().await["recovered"], true);
    assert_eq!(replay.replayed().await.len(), 1);
    assert!(server.stderr().contains("locked"));
    outsider.run("ROLLBACK");
    assert_recovered(server, &cursor, (1, 1)).await;
}

/// The database's own files, but for the one that is shared memory: SQLite would die of a fault on its pages.
fn files(server: &Server) -> Vec<std::path::PathBuf> {
    let names = ["bongsu.db", "bongsu.db-wal"];
    let paths = names.iter().map(|name| server.data_dir().join(name));
    paths.filter(|path| path.exists()).collect()
}

#[tokio::test]
async fn a_database_that_becomes_read_only_refuses_writes_until_it_is_writable() {
    let server = Server::with(impatient());
    let api = server.api();
    let mut stream = api.listen("topic:disk", None).await;
    let cursor = stream.ready().await["position"].as_str().unwrap().to_owned();
    assert_eq!(try_publish(&api, 0, 10).await.status, 202);
    api.update_ei("FLT-A01", 1.0).await;
    let Some(frozen) = Frozen::freeze(&files(&server)) else {
        not_tested("read-only files: chattr +i does not work here");
        return;
    };
    for _ in 0..3 {
        assert_refused(try_publish(&api, 1, 10).await);
        let update = json!({"fleet_id": "FLT-A01", "new_ei": 2});
        assert_refused(api.post("/v2/fleet/ei-update", &update).await);
    }
    assert_alive(&mut stream).await;
    drop(frozen);
    assert_recovered(server, &cursor, (1, 1)).await;
}

#[tokio::test]
async fn a_read_only_database_is_refused_at_the_start_by_name() {
    let mut server = Server::start();
    let cursor = server.api().publish("topic:disk", "filled", json!({"count": 0})).await;
    server.kill();
    let Some(frozen) = Frozen::freeze(&files(&server)) else {
        not_tested("read-only files: chattr +i does not work here");
        return;
    };
    let options = ServerOptions { data_dir: Some(server.data_dir().to_owned()), ..ServerOptions::default() };
    let said = Server::refuse(options, "127.0.0.1:0");
    assert!(said.starts_with("exit status: 1: "), "{said}");
    assert!(said.contains("bongsu.db cannot be written"), "{said}");
    assert!(said.contains("owner and permissions"), "what to do: {said}");
    drop(frozen);
    server.restart(|options| options);
    let mut stream = server.api().listen("topic:disk", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
}

#[tokio::test]
async fn a_data_directory_is_served_once() {
    let server = Server::start();
    let options = ServerOptions { data_dir: Some(server.data_dir().to_owned()), ..ServerOptions::default() };
    let said = Server::refuse(options, "127.0.0.1:0");
    assert!(said.starts_with("exit status: 1: "), "{said}");
    assert!(said.contains("another process serves this data directory"), "{said}");
    server.api().publish("topic:disk", "after", 0.into()).await;
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused_at_the_start_by_name() {
    let mut server = Server::start();
    server.kill();
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    let options = ServerOptions { data_dir: Some(server.data_dir().to_owned()), ..ServerOptions::default() };
    let said = Server::refuse(options, "127.0.0.1:0");
    assert!(said.starts_with("exit status: 1: "), "{said}");
    assert!(said.contains("newer release") && said.contains("99990101000000"), "{said}");
    outsider.run("DELETE FROM __diesel_schema_migrations WHERE version = '99990101000000'");
    server.restart(|options| options);
    server.api().publish("topic:disk", "after", 0.into()).await;
}

#[tokio::test]
async fn whoever_comes_while_the_database_cannot_be_written_is_told_to_come_back() {
    let server = Server::with(impatient());
    let api = server.api();
    let ticket = async |path: &str| {
        let wanted = json!({"path": path, "topics": ["topic:a"]});
        let answer = api.post("/v2/realtime/tickets", &wanted).await.expect(201);
        answer["ticket"].as_str().expect("a ticket").to_owned()
    };
    let stream = format!("/v2/realtime/stream?topics=topic:a&ticket={}", ticket("/v2/realtime/stream").await);
    let poll = format!("/v2/realtime/poll?topics=topic:a&ticket={}", ticket("/v2/realtime/poll").await);
    let socket = format!("/v2/realtime/ws?topics=topic:a&ticket={}", ticket("/v2/realtime/ws").await);
    let stranger = server.api_with("");
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    // a ticket has to be marked as used
    for _ in 0..2 {
        let told = Sse::open(stranger.request("GET", &stream).header("Accept", "text/event-stream")).await;
        assert_told_to_come_back(told).await;
        assert_refused(stranger.get(&stream).await);
        assert_refused(stranger.get(&poll).await);
        assert_eq!(Ws::try_open(server.address(), &socket, &[]).await.err(), Some(503));
    }
    // the log of this tenant has yet to be made
    assert_told_to_come_back(api.listen("topic:a", None).await).await;
    outsider.run("ROLLBACK");
    api.listen("topic:a", None).await.ready().await;
    Sse::open(stranger.request("GET", &stream)).await.ready().await;
    stranger.get(&poll).await.expect(200);
    Ws::try_open(server.address(), &socket, &[]).await.expect("a connection").ready().await;
}

async fn assert_told_to_come_back(mut stream: Sse) {
    let close = stream.rest().await.pop().expect("a close");
    let told = (close.event.as_str(), &close.data["reconnect"], close.data["retry_ms"].as_u64());
    assert!(matches!(told, ("close", serde_json::Value::Bool(true), Some(1..=60_000))), "{close:?}");
}
