//! How a server is reached, and what is said when it is not.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::support::postgres::database;
use crate::support::tls::Certificates;
use crate::support::{Backend, Holding, Postgres, Server, ServerOptions, binary, eventually, run_cli_with};

fn on(url: &str) -> ServerOptions {
    ServerOptions::default().on_postgres(url)
}

fn refused(options: ServerOptions) -> String {
    Server::refuse(options, "127.0.0.1:0")
}

#[tokio::test]
async fn tls_is_spoken_where_the_server_has_it_and_verified_where_that_is_asked_for() {
    let certificates = Certificates::new();
    let postgres = Postgres::over_tls(&certificates);
    let port = postgres.address().port();
    let ca = certificates.path("ca.pem").to_string_lossy().into_owned();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name LIKE 'bongsu %'";
    for (url, ca) in [
        (format!("postgres://postgres@127.0.0.1:{port}/postgres"), ""),
        (format!("postgres://postgres@localhost:{port}/postgres?sslmode=require"), &*ca),
        (format!("postgres://postgres@localhost:{port}/postgres?sslmode=verify-full"), &*ca),
    ] {
        let server = Server::with(on(&url).set("storage.tls_ca", ca).set("storage.require_tls", true));
        server.api().update_ei("FLT-A01", 1.0).await;
        assert_eq!(postgres.sql(encrypted), "t", "{url}");
    }
    let unknown = format!("postgres://postgres@localhost:{port}/postgres?sslmode=require");
    let error = refused(on(&unknown));
    assert!(error.contains("certificate") && error.contains("storage.tls_ca"), "{error}");
    let misnamed = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=verify-full");
    let error = refused(on(&misnamed).set("storage.tls_ca", &ca));
    assert!(error.contains("not valid for name"), "{error}");
    let plain = Postgres::start();
    let error = refused(on(&format!("{}?sslmode=require", plain.url())));
    assert!(error.contains("does not support TLS") && error.contains("ssl = on"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_the_password_is_not() {
    let access = "host all kim 127.0.0.1/32 scram-sha-256";
    let postgres = Postgres::with(&[], &[access]);
    postgres.sql("CREATE ROLE kim LOGIN PASSWORD 'right-secret'");
    postgres.sql("CREATE DATABASE own OWNER kim");
    let address = postgres.address();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    for (url, told) in [
        (
            format!("postgres://kim:wrong-secret@{address}/own"),
            "does not accept the password of user \"kim\"",
        ),
        (format!("postgres://kim:right-secret@{address}/other"), "has no database \"other\""),
        (format!("postgres://nobody:wrong-secret@{address}/own"), "does not let user \"nobody\" in"),
        (format!("postgres://kim:right-secret@{nobody}/own"), "cannot be reached"),
        (format!("postgres://kim@{address}/own"), "put one into storage.database_url"),
        ("mysql://kim:right-secret@h/own".to_owned(), "must begin with postgres://"),
    ] {
        for error in [
            refused(on(&url).set("logging.level", "trace")),
            run_cli_with(&[("DATABASE_URL", &url)], &["migrate"]).2,
        ] {
            assert!(error.contains(told) && error.contains("database_url"), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
    let server =
        Server::with(on(&format!("postgres://kim:right-secret@{address}/own")).set("logging.level", "trace"));
    server.api().update_ei("FLT-A01", 1.0).await;
    assert!(!server.stderr().contains("secret"));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_named_in_bounded_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("postgres://kim:secret@{}/own", silent.local_addr().expect("an address"));
    let error = refused(on(&url).set("storage.wait_ms", 300));
    assert!(error.contains("has not answered within 300 ms") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_schema_of_a_newer_release_is_refused_at_the_start_and_let_be_by_who_runs() {
    let mut server = Server::with(ServerOptions { backend: Some(Backend::Postgres), ..Default::default() });
    let url = server.database_url().to_owned();
    let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('99999999999999')";
    crate::support::postgres::sql(&url, newer);
    server.api().update_ei("FLT-A01", 1.0).await;
    server.api().publish("topic:a", "tick", json!({"n": 1})).await;
    server.kill();
    let error = refused(server.options().clone());
    assert!(error.contains("migrated by a newer release (to 99999999999999)"), "{error}");
    let (status, _, error) = run_cli_with(&[("DATABASE_URL", &url)], &["migrate"]);
    assert!(!status.success() && error.contains("newer release"), "{error}");
}

#[tokio::test]
async fn nodes_that_start_together_migrate_once() {
    let url = database().expect("BONGSU_TEST_POSTGRES_URL, as ./test sets it");
    let migrate = || {
        let mut command = Command::new(binary());
        command.args(["migrate", "--json"]).env("DATABASE_URL", &url).stdout(std::process::Stdio::piped());
        command.spawn().expect("it runs")
    };
    let migrating: Vec<_> = (0..4).map(|_| migrate()).collect();
    let ran = migrating.into_iter().map(|child| {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        line["migrations"].as_array().expect("a list").len()
    });
    let mut ran: Vec<usize> = ran.collect();
    ran.sort_unstable();
    assert!(ran[..3] == [0, 0, 0] && ran[3] > 5, "{ran:?}");
}

#[tokio::test]
async fn a_statement_or_a_lock_that_takes_too_long_is_answered_503_and_nothing_stays_of_it() {
    let options = ServerOptions { backend: Some(Backend::Postgres), ..Default::default() };
    let options = options.set("storage.statement_timeout_ms", 300).set("storage.wait_ms", 200);
    let server = Server::with(options);
    let (api, url) = (server.api(), server.database_url());
    let sql = |text: &str| crate::support::postgres::sql(url, text);
    let update = async || {
        let answer = api.post("/v2/fleet/ei-update", &json!({"fleet_id": "FLT-A01", "new_ei": 1.0})).await;
        let is_told = answer.status != 503 || answer.headers.contains_key("retry-after");
        assert!(is_told, "{:?}", answer.headers);
        answer.status
    };
    sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'",
    );
    sql("CREATE TRIGGER slow BEFORE INSERT ON fleets FOR EACH ROW EXECUTE FUNCTION slow()");
    assert_eq!(update().await, 503);
    sql("DROP TRIGGER slow ON fleets");
    assert_eq!(update().await, 200);
    let holding = Holding::open(url, "LOCK TABLE fleets IN ACCESS EXCLUSIVE MODE");
    assert_eq!(update().await, 503);
    drop(holding);
    eventually("an update", async || (update().await == 200).then_some(())).await;
    assert_eq!(api.get("/v2/fleets/FLT-A01").await.expect(200)["version"], 2);
}
