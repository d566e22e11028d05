//! Dead jobs: listed, tried again and removed, by administrators of their tenant and from the command line.

use bongsu::clock::Clock;
use bongsu::jobs::{Delivery, JobRow, Kind, NewJob};
use bongsu::storage::{Database, DatabaseOptions, PostgresOptions, StorageRuntime, StoreError};
use bongsu::telemetry::Metrics;
use serde_json::{Value, json};
use std::time::Duration;

use crate::support::{Backend, Client, Server, ServerOptions, Transport, eventually, run_cli_with};

/// Of a kind that the server knows: its payload is read, and what follows is told to the user.
const KNOWN: Kind = Kind { name: "account.created", channel: "snapshots", delivery: Delivery::AtLeastOnce };

/// Puts dead jobs of a tenant into a server's database, from outside; their ids.
async fn put_dead(server: &Server, tenant: &'static str, payloads: &[&str]) -> Vec<String> {
    let is_embedded = Backend::of_this_test() == Backend::Embedded;
    let options = DatabaseOptions {
        url: if is_embedded { String::new() } else { server.database_url().to_owned() },
        data_dir: server.data_dir().to_owned(),
        connections: 2,
        wait: Duration::from_secs(10),
        max_bytes: 0,
        postgres: PostgresOptions::default(),
    };
    let rows: Vec<JobRow> = payloads
        .iter()
        .map(|payload| {
            let payload = (*payload).to_owned();
            let new =
                NewJob { kind: KNOWN, tenant, priority: 3, payload, server_id: "of old", max_attempts: 3 };
            let error = Some("no luck".to_owned());
            JobRow { state: "dead".into(), attempts: 3, error, finished_us: Some(1), ..new.row() }
        })
        .collect();
    let ids = rows.iter().map(|row| row.job_id.clone()).collect();
    let put = move || {
        let runtime = StorageRuntime::start().expect("a runtime");
        let handle = runtime.handle();
        let written = runtime.block_on(handle.spawn(async move {
            let database =
                Database::open(&options, tokio::runtime::Handle::current(), &Metrics::default()).await?;
            let own = Clock::system().steady().micros();
            bongsu::write_tx!(database, |conn, q| {
                for row in rows {
                    q::jobs::add(conn, row, own).await?;
                }
                Ok::<_, StoreError>(())
            })
        }));
        written.expect("no panic").expect("jobs");
    };
    tokio::task::spawn_blocking(put).await.expect("no panic");
    ids
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn administrators_list_retry_and_purge_dead_jobs_of_their_tenant() {
    for backend in [Backend::Embedded, Backend::Cluster] {
        backend.run(looked_after_over_http()).await;
    }
}

async fn looked_after_over_http() {
    let server = Server::with(ServerOptions::default());
    let (admin, other) = (server.api_of("default", "admin"), server.api_of("other", "admin"));
    let good = r#"{"user":"kim","event":{"account_id":1}}"#;
    let own = put_dead(&server, "default", &[good, "{}", "[]"]).await;
    let foreign = put_dead(&server, "other", &["{}"]).await;
    let listed = admin.get("/v2/admin/jobs").await.expect(200);
    assert_eq!(ids(&listed), own);
    let first = &listed["jobs"][0];
    assert_eq!((&first["kind"], &first["channel"]), (&json!("account.created"), &json!("snapshots")));
    assert_eq!((&first["error"], &first["attempts"]), (&json!("no luck"), &json!(3)));
    assert_eq!((&first["payload"]["user"], &first["server_id"]), (&json!("kim"), &json!("of old")));
    let page = admin.get("/v2/admin/jobs?limit=2").await.expect(200);
    assert_eq!((ids(&page), &page["next"]), (own[..2].iter().map(String::as_str).collect(), &json!(own[1])));
    let rest = admin.get(&format!("/v2/admin/jobs?limit=2&after={}", own[1])).await.expect(200);
    assert_eq!((ids(&rest), &rest["next"]), (vec![own[2].as_str()], &Value::Null));
    assert_eq!(admin.get("/v2/admin/jobs?state=lost").await.problem(400), "invalid_parameter");
    // tried again, it succeeds, with the name of the node that accepted it
    let kim = server.api_of("default", "act_as_user").speaking_for("kim");
    let (mut client, _) = Client::over(Transport::Sse, &kim, "user:kim", None).await;
    let retry = async |id: &str| admin.post(&format!("/v2/admin/jobs/{id}/retry"), &Value::Null).await;
    assert_eq!(retry(&own[0]).await.expect(200), json!({"id": own[0], "state": "pending"}));
    let told = client.event().await;
    assert_eq!((told.name.as_str(), &told.data["serverId"]), ("snapshots.generated", &json!("of old")));
    assert_eq!(retry(&own[0]).await.problem(409), "job_not_dead");
    assert_eq!(ids(&admin.get("/v2/admin/jobs?state=done").await.expect(200)), [own[0].as_str()]);
    // what cannot be read is dead again at once, and says why
    retry(&own[1]).await.expect(200);
    let again = eventually("it to be dead again", async || {
        let dead = admin.get("/v2/admin/jobs").await.expect(200)["jobs"][0].clone();
        (dead["id"] == own[1] && dead["attempts"] == 4).then_some(dead)
    })
    .await;
    assert_eq!(again["max_attempts"], 6, "the three that it had, and three more");
    assert!(again["error"].as_str().is_some_and(|error| error.contains("missing field")), "{again}");
    // another tenant's are not there
    for id in [foreign[0].as_str(), "none"] {
        assert_eq!(retry(id).await.problem(404), "no_such_job");
        assert_eq!(admin.delete(&format!("/v2/admin/jobs?id={id}")).await.expect(200)["purged"], 0);
    }
    assert_eq!(admin.delete(&format!("/v2/admin/jobs?id={}", own[1])).await.expect(200)["purged"], 1);
    assert_eq!(admin.delete("/v2/admin/jobs").await.expect(200)["purged"], 1);
    assert_eq!(ids(&admin.get("/v2/admin/jobs").await.expect(200)), Vec::<&str>::new());
    assert_eq!(ids(&other.get("/v2/admin/jobs").await.expect(200)), foreign);
    let depth = server.operator();
    let dead = r#"bongsu_jobs{state="dead",channel="snapshots"}"#;
    eventually("the depth", async || (depth.at(0).metric(dead).await == 1.0).then_some(())).await;
}

#[tokio::test]
async fn the_command_line_lists_retries_and_purges_dead_jobs_while_a_server_runs_and_when_none_does() {
    let mut server = Server::with(ServerOptions::default());
    let good = r#"{"user":"kim","event":{"account_id":1}}"#;
    let own = put_dead(&server, "default", &[good, "[]", "[]", "[]"]).await;
    put_dead(&server, "other", &["[]"]).await;
    let data_dir = server.data_dir().to_string_lossy().into_owned();
    let run = |words: &[&str]| {
        let args = [&["jobs"], words, &["--data-dir", &data_dir]].concat();
        run_cli_with(&[], &args)
    };
    let lines = |words: &[&str]| -> Vec<Value> {
        let (status, out, err) = run(&[words, &["--json"]].concat());
        assert!(status.success(), "{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(lines(&["list"]).len(), 5);
    let listed = lines(&["list", "--tenant", "default"]);
    assert_eq!(listed.iter().map(|job| job["id"].clone()).collect::<Vec<_>>(), own);
    let (_, table, _) = run(&["list"]);
    assert!(
        table.lines().all(|line| line.contains("account.created") && line.contains("no luck")),
        "{table}"
    );
    assert_eq!(lines(&["retry", &own[0]]), [json!({"id": own[0], "state": "pending"})]);
    eventually("the server to do it", async || {
        (lines(&["list", "--state", "done"]).len() == 1).then_some(())
    })
    .await;
    server.kill();
    assert_eq!(lines(&["purge", &own[1]]), [json!({"purged": 1})]);
    assert_eq!(lines(&["retry", "--all", "--tenant", "other"]).len(), 1);
    assert_eq!(lines(&["list", "--state", "pending"])[0]["tenant"], "other");
    assert_eq!(lines(&["purge", "--all", "--tenant", "default"]), [json!({"purged": 2})]);
    assert_eq!(lines(&["list"]), Vec::<Value>::new());
    for (words, code, said) in [
        (&["retry", "none"][..], 1, "there is no job none"),
        (&["purge", "none"], 1, "there is no dead job none"),
        (&["retry", &own[0]], 1, "is done: only dead ones"),
        (&["retry"], 2, "<IDS>"),
        (&["list", "--state", "lost"], 2, "must be pending"),
    ] {
        let (status, _, err) = run(words);
        assert_eq!(status.code(), Some(code), "{words:?}: {err}");
        assert!(err.contains(said), "{words:?}: {err}");
    }
}
