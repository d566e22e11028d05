//! Accounts, their snapshots, and the stream of the clients of system 2, on both backends.

mod crash;
mod scenario;
mod stream;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Api, Backend, Client, Server, ServerOptions, Transport, Ws, eventually, on_both_backends,
};

on_both_backends! {
    an_account_is_answered_at_once_and_a_snapshot_of_all_of_them_follows,
    a_change_is_told_to_its_owner_alone,
    bad_input_is_refused_by_name_and_changes_nothing,
    fields_that_nobody_knows_are_ignored_and_counted_over_http_and_refused_over_websocket,
    a_command_repeated_with_its_key_makes_one_account_and_one_snapshot,
    lists_come_page_by_page,
    a_user_has_so_many_accounts_at_most,
    the_newest_snapshots_of_a_user_are_kept,
}

/// Clients of system 2 show no credentials.
fn anonymous() -> ServerOptions {
    ServerOptions::default().unlimited().set("compat.anonymous_user", "123")
}

/// Calls for a user.
fn speaking(server: &Server, user: &str) -> Api {
    server.api_of("default", "act_as_user").speaking_for(user)
}

async fn make(api: &Api, name: &str, balance: f64) -> Value {
    api.post("/accounts", &json!({"name": name, "balance": balance})).await.expect(201)
}

/// What a user's accounts and snapshots are, without positions.
async fn state(api: &Api) -> (Value, Value) {
    let (accounts, snapshots) =
        (api.get("/accounts?limit=200").await.expect(200), api.get("/snapshots?limit=200").await.expect(200));
    (accounts["accounts"].clone(), snapshots["snapshots"].clone())
}

/// Waits until nothing waits to be done.
async fn settled(server: &Server) {
    // the last node is the one that no test kills
    let admin = server.api_of("default", "admin").at(server.count() - 1);
    eventually("jobs to be done", async || {
        for state in ["pending", "sending", "retry"] {
            let jobs = admin.get(&format!("/v2/admin/jobs?state={state}")).await.expect(200)["jobs"].clone();
            if jobs != json!([]) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// The next event that a user hears.
async fn heard(client: &mut Client) -> (String, Value) {
    let event = client.event().await;
    (event.name, event.data)
}

async fn an_account_is_answered_at_once_and_a_snapshot_of_all_of_them_follows() {
    let server = Server::with(ServerOptions::default());
    let kim = speaking(&server, "kim");
    let (mut client, ready) = Client::over(Transport::Sse, &kim, "user:kim", None).await;
    assert_eq!(ready["user_id"], "kim");
    for (count, (name, balance)) in [("savings", "12.50"), ("봉수 \"1\"", "-0.000001")].iter().enumerate() {
        let body = format!("{{\"name\":{},\"balance\":{balance}}}", json!(name));
        let answer = kim.post_text("/accounts", body).await;
        let shown = balance.trim_end_matches('0');
        assert!(answer.text.contains(&format!("\"balance\":{shown},")), "{}", answer.text);
        let made = answer.expect(201);
        let fields: Vec<&String> = made.as_object().expect("an account").keys().collect();
        assert_eq!(fields, ["balance", "createdAt", "id", "name"]);
        assert_eq!((&made["id"], &made["name"]), (&json!(count + 1), &json!(name)));
        let (event, data) = heard(&mut client).await;
        assert_eq!((event.as_str(), &data["snapshotCount"]), ("snapshots.generated", &json!(count + 1)));
        let fields: Vec<&String> = data.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["serverId", "snapshotCount", "timestamp"]);
    }
    let (accounts, snapshots) = state(&kim).await;
    let of = |rows: &Value| -> Vec<(String, Value, Value)> {
        let id = |row: &Value| row.get("accountId").unwrap_or(&row["id"]).to_string().replace('"', "");
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| (id(row), row["name"].clone(), row["balance"].clone())).collect()
    };
    let both = of(&accounts);
    assert_eq!(both.len(), 2);
    // the newest first: both accounts, and before them the first alone
    let expected = [both[0].clone(), both[1].clone(), both[0].clone()];
    assert_eq!(of(&snapshots), expected);
    // another user's are its own, and numbered with all of the tenant
    let lee = speaking(&server, "lee");
    assert_eq!(state(&lee).await, (json!([]), json!([])));
    assert_eq!(make(&lee, "first", 0.0).await["id"], 3);
    settled(&server).await;
    assert_eq!(state(&kim).await, (accounts, snapshots));
}

async fn a_change_is_told_to_its_owner_alone() {
    let server = Server::with(ServerOptions::default());
    let (kim, lee) = (speaking(&server, "kim"), speaking(&server, "lee"));
    make(&kim, "a", 1.0).await;
    settled(&server).await;
    let (mut client, _) = Client::over(Transport::WebSocket, &kim, "user:kim", None).await;
    let (mut other, _) = Client::over(Transport::Sse, &lee, "user:lee", None).await;
    for (body, changes) in [
        (json!({"name": "b"}), json!({"name": "b"})),
        (json!({"balance": 2.5}), json!({"balance": 2.5})),
        (json!({"name": "c", "balance": 3}), json!({"name": "c", "balance": 3})),
    ] {
        let answer = kim.call("PATCH", "/accounts/1", &body).await.expect(200);
        for (field, value) in changes.as_object().expect("fields") {
            assert_eq!(answer[field], *value);
        }
        let (event, data) = heard(&mut client).await;
        assert_eq!(event, "account.updated");
        assert_eq!((&data["accountId"], &data["changes"]), (&json!("1"), &changes));
        assert!(data["serverId"].is_string() && data["timestamp"].is_string());
    }
    for path in ["/accounts/1", "/accounts/2", "/accounts/x", "/accounts/99999999999999999999"] {
        assert_eq!(lee.call("PATCH", path, &json!({"name": "mine"})).await.problem(404), "no_such_account");
    }
    assert_eq!(state(&kim).await.0[0]["name"], "c");
    // a change makes no snapshot, and nobody else hears of it
    assert_eq!(state(&kim).await.1.as_array().expect("snapshots").len(), 1);
    make(&lee, "own", 0.0).await;
    assert_eq!(heard(&mut other).await.0, "snapshots.generated");
}

async fn bad_input_is_refused_by_name_and_changes_nothing() {
    let server = Server::with(ServerOptions::default().unlimited());
    let kim = speaking(&server, "kim");
    make(&kim, "a", 1.0).await;
    settled(&server).await;
    let before = state(&kim).await;
    let mut ws = connect(&kim).await;
    let long = "x".repeat(201);
    for (body, field) in [
        (json!({"balance": 1}), "name"),
        (json!({"name": "a"}), "balance"),
        (json!({"name": "", "balance": 1}), "name"),
        (json!({"name": long, "balance": 1}), "name"),
        (json!({"name": "a\nb", "balance": 1}), "name"),
        (json!({"name": 7, "balance": 1}), "name"),
        (json!({"name": "a", "balance": "1"}), "balance"),
        (json!({"name": "a", "balance": 1e12}), "balance"),
        (json!({"name": "a", "balance": 0.0000001}), "balance"),
        (json!({"name": "a", "balance": null}), "balance"),
    ] {
        let answer = kim.post("/accounts", &body).await;
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}: {}", answer.text);
        assert_eq!(answer.problem(422), "invalid_field");
        let reply = ws.ask("command", json!({"name": "create_account", "data": body})).await;
        assert_eq!(reply["error"]["code"], "invalid_field", "{reply}");
    }
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": null}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"balance": "x"}), "balance"),
    ] {
        let answer = kim.call("PATCH", "/accounts/1", &body).await;
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}: {}", answer.text);
        assert_eq!(answer.problem(422), "invalid_field");
    }
    for (path, code) in [("/accounts?after=x", 400), ("/snapshots?after=1", 400), ("/accounts?limit=0", 400)]
    {
        assert_eq!(kim.get(path).await.problem(code), "invalid_parameter");
    }
    // a service that speaks for nobody has no accounts
    let service = server.api_of("default", "act_as_user");
    assert_eq!(
        service.post("/accounts", &json!({"name": "a", "balance": 1})).await.problem(403),
        "forbidden"
    );
    settled(&server).await;
    assert_eq!(state(&kim).await, before);
}

/// A WebSocket of a user.
async fn connect(api: &Api) -> Ws {
    let credentials = api.credentials();
    let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut ws = Ws::try_open(api.address(), "/v2/realtime/ws", &headers).await.expect("open");
    ws.ready().await;
    ws
}

async fn fields_that_nobody_knows_are_ignored_and_counted_over_http_and_refused_over_websocket() {
    let server = Server::with(ServerOptions::default());
    let (kim, operator) = (speaking(&server, "kim"), server.operator());
    let body = json!({"name": "a", "balance": 1, "colour": "red", "nested": {"name": "b"}});
    assert_eq!(kim.post("/accounts", &body).await.expect(201)["name"], "a");
    let change = json!({"balance": 2, "id": 7});
    assert_eq!(kim.call("PATCH", "/accounts/1", &change).await.expect(200)["balance"], 2);
    assert_eq!(operator.metric("bongsu_ignored_fields_total{surface=\"accounts\"}").await, 3.0);
    let mut ws = connect(&kim).await;
    let reply = ws.ask("command", json!({"name": "create_account", "data": body})).await;
    assert_eq!(reply["error"]["code"], "unknown_field", "{reply}");
    let body = json!({"name": "b", "balance": 3});
    let made = ws.done("command", json!({"name": "create_account", "data": body})).await;
    assert_eq!((&made["id"], &made["balance"]), (&json!(2), &json!(3)));
    let change = json!({"name": "update_account", "data": {"id": 2, "name": "c"}});
    assert_eq!(ws.done("command", change).await["name"], "c");
    let change = json!({"name": "update_account", "data": {"id": 3, "name": "c"}});
    assert_eq!(ws.ask("command", change).await["error"]["code"], "no_such_account");
}

async fn a_command_repeated_with_its_key_makes_one_account_and_one_snapshot() {
    let server = Server::with(ServerOptions::default());
    let kim = speaking(&server, "kim");
    let body = json!({"name": "a", "balance": 1});
    let first = kim.post_once("/accounts", &body, "k").await.expect(201);
    for _ in 0..3 {
        assert_eq!(kim.post_once("/accounts", &body, "k").await.expect(201), first);
    }
    let other = json!({"name": "b", "balance": 1});
    assert_eq!(kim.post_once("/accounts", &other, "k").await.problem(422), "idempotency_key_reused");
    settled(&server).await;
    let (accounts, snapshots) = state(&kim).await;
    assert_eq!(accounts.as_array().map(Vec::len), Some(1));
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1));
}

async fn lists_come_page_by_page() {
    let server = Server::with(ServerOptions::default());
    let kim = speaking(&server, "kim");
    for number in 1..=5 {
        make(&kim, &number.to_string(), f64::from(number)).await;
        settled(&server).await;
    }
    let (accounts, snapshots) = state(&kim).await;
    for (path, list, all) in [("/accounts", "accounts", accounts), ("/snapshots", "snapshots", snapshots)] {
        let (mut rows, mut after) = (Vec::new(), String::new());
        loop {
            let page = kim.get(&format!("{path}?limit=2{after}")).await.expect(200);
            assert!(page["position"].is_string());
            rows.extend(page[list].as_array().expect("rows").clone());
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(Value::from(rows), all);
    }
    assert_eq!(state(&kim).await.1.as_array().map(Vec::len), Some(15));
}

/// How soon a job whose node died is another's.
fn impatient(options: ServerOptions) -> ServerOptions {
    options.set("jobs.attempt_timeout_ms", Duration::from_millis(500).as_millis()).set("jobs.poll_ms", 100)
}

/// Whether this test has one node.
fn is_embedded() -> bool {
    Backend::of_this_test() == Backend::Embedded
}

async fn a_user_has_so_many_accounts_at_most() {
    let options =
        ServerOptions::default().set("compat.anonymous_user", "123").set("accounts.max_per_user", 2);
    let server = Server::with(options);
    let nobody = server.api().anonymous();
    for name in ["a", "b"] {
        make(&nobody, name, 1.0).await;
    }
    let answer = nobody.post("/accounts", &json!({"name": "c", "balance": 1})).await;
    assert_eq!(answer.problem(409), "too_many_accounts");
    assert_eq!(state(&nobody).await.0.as_array().map(Vec::len), Some(2));
    // somebody else's do not count
    let other = server.api_of("default", "act_as_user").speaking_for("other");
    other.post("/accounts", &json!({"name": "a", "balance": 1})).await.expect(201);
}

async fn the_newest_snapshots_of_a_user_are_kept() {
    let server = Server::with(ServerOptions::default().set("accounts.snapshots_kept", 2));
    let (kim, lee) = (speaking(&server, "kim"), speaking(&server, "lee"));
    make(&lee, "of old", 1.0).await;
    for name in ["a", "b", "c", "d"] {
        make(&kim, name, 1.0).await;
        settled(&server).await;
    }
    let names = async |api: &Api| -> Vec<String> {
        let rows = state(api).await.1;
        let rows = rows.as_array().expect("snapshots").iter();
        rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&kim).await, ["a", "b", "c", "d", "a", "b", "c"]);
    assert_eq!(names(&lee).await, ["of old"], "somebody else's do not count");
}
