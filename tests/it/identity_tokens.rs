//! Users with tokens (JWT): every algorithm, everything that can be wrong with one, and keys that rotate.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::{
    Answer, Api, Issuer, KeyServer, Server, ServerOptions, Sse, binary, eventually, from_now, pause, run_cli,
};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A server with these items of `jwt.keys`, and more options of `[jwt]`.
fn server_with(dir: &tempfile::TempDir, keys: &[String], more: &str, options: ServerOptions) -> Server {
    let file = dir.path().join("bongsu.toml");
    std::fs::write(&file, format!("[jwt]\nkeys = [{}]\n{more}\n", keys.join(", "))).expect("writable");
    let args = vec!["--config".to_owned(), file.to_string_lossy().into_owned()];
    Server::with(ServerOptions { args, ..options })
}

/// Of a server that answers any number of bad credentials at once.
fn patient() -> ServerOptions {
    ServerOptions::default().set("limits.attempts_per_min", 0).set("limits.failure_delay_max_ms", 0)
}

async fn refused(api: &Api, token: &str) -> String {
    let answer = api.bearing(token).get("/v2/fleets").await;
    let challenge = answer.headers["www-authenticate"].to_str().expect("text").to_owned();
    assert_eq!(challenge, "Bearer realm=\"bongsu\", error=\"invalid_token\"");
    answer.problem(401)
}

async fn accepted(api: &Api, token: &str) {
    api.bearing(token).get("/v2/fleets").await.expect(200);
}

async fn listen(api: &Api, token: &str, topics: &str) -> Answer {
    let path = format!("/v2/realtime/stream?topics={topics}");
    Api::send(api.bearing(token).request("GET", &path)).await.expect("an answer")
}

async fn stream(api: &Api, token: &str, topics: &str) -> (Sse, Value) {
    let mut stream = api.bearing(token).listen(topics, None).await;
    let ready = stream.ready().await;
    (stream, ready)
}

#[tokio::test]
async fn a_token_of_every_algorithm_is_its_user() {
    let dir = tempfile::tempdir().expect("a directory");
    let issuers = [
        Issuer::new(Algorithm::RS256, "rsa"),
        Issuer::new(Algorithm::ES256, "ec"),
        Issuer::new(Algorithm::EdDSA, "ed"),
    ];
    let mut keys: Vec<String> = issuers.iter().map(|issuer| issuer.configured(dir.path())).collect();
    keys.push(format!("{{id = \"shared\", algorithm = \"HS256\", secret = {SECRET:?}}}"));
    let server =
        server_with(&dir, &keys, "", ServerOptions::default().env("JWT_SECRET", "of the environment"));
    let api = server.api();
    let shared = [Issuer::shared(SECRET, Some("shared")), Issuer::shared("of the environment", None)];
    for issuer in issuers.iter().chain(&shared) {
        let token = issuer.token("kim@example.org", &["manager"]);
        let (_, ready) = stream(&api, &token, "user:kim%40example.org,fleet:1").await;
        assert_eq!((&ready["user_id"], &ready["tenant_id"]), (&json!("kim@example.org"), &json!("default")));
        let bearer = api.bearing(&token);
        let event = json!({"topic": "topic:news", "type": "note", "data": 1});
        bearer.post("/v2/events", &event).await.expect(202);
        // a key that is not named is found by its algorithm
        bearer.get("/v2/fleets").await.expect(200);
    }
    let [rsa, ..] = issuers;
    accepted(&api, &rsa.called(None).token("kim", &[])).await;
}

#[tokio::test]
async fn a_user_may_what_its_roles_say_within_its_tenant() {
    let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET));
    let (api, issuer) = (server.api(), Issuer::shared(SECRET, None));
    let claims = |tenant: &str, roles: Value| {
        issuer.sign(&json!({"userId": "kim", "tenant": tenant, "roles": roles, "exp": from_now(60)}))
    };
    let plain = claims("acme", json!([]));
    for (topic, status) in [
        ("fleet:1", 200),
        ("user:kim", 200),
        ("user:lee", 403),
        ("admin", 403),
        ("order:1", 403),
        ("bid:*", 403),
    ] {
        assert_eq!(listen_status(&api, &plain, topic).await, status, "{topic}");
    }
    let event = json!({"topic": "topic:news", "type": "note", "data": 1});
    api.bearing(&plain).post("/v2/events", &event).await.problem(403);
    let admin = claims("acme", json!("dispatcher admin"));
    for topic in ["admin", "order:1", "dashboard"] {
        assert_eq!(listen_status(&api, &admin, topic).await, 200, "{topic}");
    }
    let (mut other, _) = stream(&api, &claims("other", json!(["admin"])), "topic:news,fleet:FLT-1").await;
    let (mut own, _) = stream(&api, &plain, "topic:news").await;
    api.bearing(&admin).post("/v2/events", &event).await.expect(202);
    assert_eq!(own.expect("note").await.data["data"], 1);
    let reading = json!({"fleet_id": "FLT-1", "new_ei": 1});
    api.bearing(&admin).post("/v2/fleet/ei-update", &reading).await.expect(200);
    api.bearing(&claims("other", json!(["admin"]))).get("/v2/fleets/FLT-1").await.problem(404);
    let in_other = claims("other", json!(["admin"]));
    api.bearing(&in_other)
        .post("/v2/events", &json!({"topic": "topic:news", "type": "own", "data": 2}))
        .await
        .expect(202);
    assert_eq!(other.take(1).await[0].event, "own", "nothing of the first tenant came before");
    // the headers of services mean nothing from a user, not even its own name
    for (name, value) in [("x-user-id", "kim"), ("x-tenant-id", "acme"), ("x-tenant-id", "other")] {
        let request = api.bearing(&admin).request("GET", "/v2/fleets").header(name, value);
        let answer = Api::send(request).await.expect("an answer");
        assert_eq!(answer.problem(403), "identity_headers", "{name}");
    }
}

async fn listen_status(api: &Api, token: &str, topics: &str) -> u16 {
    let path = format!("/v2/realtime/stream?topics={topics}");
    api.bearing(token).request("GET", &path).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_is_refused_by_name_and_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (rsa, ec) = (Issuer::new(Algorithm::RS256, "rsa"), Issuer::new(Algorithm::ES256, "ec"));
    let keys = [rsa.configured(dir.path()), ec.configured(dir.path())];
    let more = "issuer = \"https://id.example\"\naudience = \"bongsu\"\nleeway_s = 0";
    let server = server_with(&dir, &keys, more, patient());
    let (api, operator) = (server.api(), server.operator());
    let claims = |change: Value| {
        let mut claims =
            json!({"sub": "kim", "iss": "https://id.example", "aud": "bongsu", "exp": from_now(60)});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    };
    let good = rsa.sign(&claims(json!({})));
    accepted(&api, &good).await;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(&claims(json!({"roles": ["admin"]})));
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let (header, _) = good.split_once('.').expect("a header");
    let stranger = Issuer::new(Algorithm::RS256, "rsa");
    let mut wrong: Vec<(&str, String)> = vec![
        ("wrong_algorithm", format!("{}.{body}.", part(&json!({"alg": "none"})))),
        ("wrong_algorithm", format!("{}.{body}.", part(&json!({"alg": "none", "kid": "rsa"})))),
        ("wrong_algorithm", format!("{}.{body}.{signature}", part(&json!({"alg": "RS512", "kid": "rsa"})))),
        ("wrong_algorithm", format!("{}.{body}.{signature}", part(&json!({"alg": "ES256", "kid": "rsa"})))),
        ("wrong_algorithm", Issuer::shared(rsa.public_pem(), Some("rsa")).sign(&claims(json!({})))),
        ("invalid_signature", Issuer::shared(rsa.public_pem(), None).sign(&claims(json!({})))),
        ("invalid_signature", stranger.sign(&claims(json!({})))),
        ("invalid_signature", format!("{header}.{body}.{signature}")),
        ("invalid_signature", format!("{signed}.{}", &signature[..signature.len() - 2])),
        ("invalid_signature", format!("{signed}.")),
        ("invalid_token", signed.to_owned()),
        ("invalid_token", header.to_owned()),
        ("invalid_token", format!("{good}.{signature}")),
        ("invalid_token", "a.b.c".to_owned()),
        ("invalid_token", rsa.sign(&claims(json!({"filler": "x".repeat(8192)})))),
        ("unknown_kid", Issuer::new(Algorithm::ES256, "next").sign(&claims(json!({})))),
    ];
    for (code, change) in [
        ("expired_token", json!({"exp": from_now(-1)})),
        ("premature_token", json!({"nbf": from_now(30)})),
        ("invalid_token", json!({"exp": null})),
        ("invalid_token", json!({"exp": "never"})),
        ("invalid_token", json!({"sub": null})),
        ("invalid_token", json!({"roles": 1})),
        ("wrong_tenant", json!({"tenant": "no tenant"})),
        ("wrong_issuer", json!({"iss": null})),
        ("wrong_audience", json!({"aud": ["other"]})),
    ] {
        wrong.push((code, ec.sign(&claims(change))));
    }
    for (code, token) in &wrong {
        assert_eq!(refused(&api, token).await, *code, "{token}");
        assert_eq!(listen(&api, token, "topic:a").await.problem(401), *code);
    }
    for (code, _) in &wrong {
        let count = 2 * wrong.iter().filter(|(own, _)| own == code).count();
        let name = format!("bongsu_auth_failures_total{{reason=\"{code}\"}}");
        assert_eq!(operator.metric(&name).await, count as f64, "{code}");
    }
    let log = server.stderr();
    assert!(!log.contains(&good) && !log.contains(signature), "no token is logged");
}

#[tokio::test]
async fn keys_that_rotate_are_followed_and_kept_while_their_address_is_away() {
    let (first, second, third) = (
        Issuer::new(Algorithm::EdDSA, "first"),
        Issuer::new(Algorithm::ES256, "second"),
        Issuer::new(Algorithm::RS256, "third"),
    );
    let mut keys = KeyServer::showing(&[&first]).await;
    let options = patient().set("jwt.jwks_url", keys.url()).set("jwt.jwks_retry_s", 1);
    let server = Server::with(options);
    let (api, operator) = (server.api(), server.operator());
    accepted(&api, &first.token("kim", &[])).await;
    assert_eq!(keys.asked(), 1, "once at the start");
    // rotated, and some come at the same time, when it may be asked again: the tokens themselves make the new key be
    // fetched, once
    keys.show(&[&first, &second]);
    pause(Duration::from_secs(1)).await;
    let token = second.token("kim", &[]);
    let bearer = api.bearing(&token);
    let all = tokio::join!(bearer.get("/v2/fleets"), bearer.get("/v2/fleets"), bearer.get("/v2/fleets"));
    assert_eq!((all.0.status, all.1.status, all.2.status), (200, 200, 200));
    assert_eq!(keys.asked(), 2);
    // unknown names cannot be used to make it ask all the time
    let stranger = Issuer::new(Algorithm::EdDSA, "stranger");
    let since = Instant::now();
    for _ in 0..20 {
        assert_eq!(refused(&api, &stranger.token("eve", &[])).await, "unknown_kid");
    }
    assert!(keys.asked() <= 3 + since.elapsed().as_secs() as usize, "{}", keys.asked());
    // away: what is known stays
    keys.go_away().await;
    eventually("a fetch that fails", async || {
        assert_eq!(refused(&api, &stranger.token("eve", &[])).await, "unknown_kid");
        (operator.metric("bongsu_jwks_fetches_total{outcome=\"failed\"}").await > 0.0).then_some(())
    })
    .await;
    for issuer in [&first, &second] {
        accepted(&api, &issuer.token("kim", &[])).await;
    }
    // an answer that is none is not believed either
    keys.come_back().await;
    for (status, body) in [(500, "{\"keys\":[]}"), (200, "<html>"), (302, "")] {
        let asked = keys.asked();
        keys.say(status, body);
        eventually("another fetch", async || {
            refused(&api, &stranger.token("eve", &[])).await;
            (keys.asked() > asked).then_some(())
        })
        .await;
        accepted(&api, &first.token("kim", &[])).await;
    }
    // back: the old key is gone, the new one is in force
    keys.show(&[&third]);
    let token = third.token("kim", &[]);
    eventually("the third key", async || {
        (api.bearing(&token).get("/v2/fleets").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(refused(&api, &first.token("kim", &[])).await, "unknown_kid");
}

#[tokio::test]
async fn keys_are_fetched_anew_without_being_asked_for_and_shared_secrets_are_not_taken() {
    let (first, second) = (Issuer::new(Algorithm::EdDSA, "a"), Issuer::new(Algorithm::EdDSA, "b"));
    let mut keys = KeyServer::showing(&[&first]).await;
    keys.go_away().await;
    let options = patient().set("jwt.jwks_url", keys.url()).set("jwt.jwks_retry_s", 1);
    let options = options.set("jwt.jwks_refresh_s", 10);
    let server = Server::with(options);
    let (api, since) = (server.api(), Instant::now());
    // it starts without the address, and refuses by name until the keys are there
    assert_eq!(refused(&api, &first.token("kim", &[])).await, "unknown_kid");
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let mut set = json!({"keys": [first.jwk(), {"kty": "oct", "kid": "oct", "k": secret, "alg": "HS256"}]});
    keys.say(200, &set.to_string());
    keys.come_back().await;
    let token = first.token("kim", &[]);
    eventually("the key", async || (api.bearing(&token).get("/v2/fleets").await.status == 200).then_some(()))
        .await;
    assert_eq!(refused(&api, &Issuer::shared(SECRET, Some("oct")).token("eve", &[])).await, "unknown_kid");
    // the old key is taken from the set: without any token that asks for another it goes
    set["keys"] = json!([second.jwk()]);
    keys.say(200, &set.to_string());
    eventually("the old key's end", async || {
        (api.bearing(&token).get("/v2/fleets").await.status == 401).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).set("jwt.leeway_s", 0));
    let (api, issuer) = (server.api(), Issuer::shared(SECRET, None));
    let token = |seconds| issuer.sign(&json!({"sub": "kim", "exp": from_now(seconds)}));
    let (mut longer, _) = stream(&api, &token(60), "topic:a").await;
    let (mut short, _) = stream(&api, &token(2), "topic:a").await;
    api.publish("topic:a", "tick", json!(1)).await;
    assert_eq!(short.expect("tick").await.data["data"], 1);
    let close = short.expect("close").await.data;
    assert_eq!((&close["code"], &close["reconnect"]), (&json!(3500), &json!(false)));
    assert!(short.next().await.is_none());
    assert_eq!(longer.expect("tick").await.data["data"], 1);
    api.publish("topic:a", "tick", json!(2)).await;
    assert_eq!(longer.expect("tick").await.data["data"], 2, "others stay");
}

fn create_token(server: &Server, words: &[&str]) -> Value {
    let data_dir = server.data_dir().to_string_lossy();
    let mut args = vec!["token", "create", "--json", "--data-dir", &data_dir];
    args.extend(words);
    let (status, out, err) = run_cli(&args);
    assert!(status.success(), "{err}");
    serde_json::from_str(&out).expect("JSON")
}

#[tokio::test]
async fn a_token_made_on_the_command_line_is_accepted_without_any_configuration() {
    let mut server = Server::start();
    let api = server.api();
    let made = create_token(
        &server,
        &["--tenant", "acme", "--sub", "kim", "--roles", "manager,admin", "--ttl", "600"],
    );
    assert_eq!(made.as_object().expect("an object").len(), 2, "{made}");
    let expires = bongsu::domain::Timestamp::parse(made["expires_at"].as_str().expect("a time"));
    let left = expires.expect("RFC 3339").millis() / 1000 - from_now(0);
    assert!((590..=600).contains(&left), "{left}");
    let token = made["token"].as_str().expect("a token").to_owned();
    let (_, ready) = stream(&api, &token, "user:kim,admin").await;
    assert_eq!((&ready["user_id"], &ready["tenant_id"]), (&json!("kim"), &json!("acme")));
    // the secret is the installation's: it outlives the process, and is another's nowhere else
    server.kill();
    server.restart(|options| options);
    accepted(&api, &token).await;
    let stranger = Server::start();
    assert_eq!(refused(&stranger.api(), &token).await, "invalid_signature");
    // made before the first start as well
    let mut options = ServerOptions::default();
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().to_string_lossy().into_owned();
    let (_, out, _) = run_cli(&["token", "create", "--sub", "lee", "--json", "--data-dir", &data_dir]);
    let made: Value = serde_json::from_str(&out).expect("JSON");
    options.data_dir = Some(dir.path().to_owned());
    accepted(&Server::with(options).api(), made["token"].as_str().expect("a token")).await;
    for wrong in [&["--sub", ""][..], &["--sub", "a", "--tenant", "a b"]] {
        let mut args = vec!["token", "create", "--data-dir", &data_dir];
        args.extend(wrong);
        assert_eq!(run_cli(&args).0.code(), Some(1));
    }
    let zero = ["token", "create", "--sub", "a", "--ttl", "0", "--data-dir", &data_dir];
    assert_eq!(run_cli(&zero).0.code(), Some(2));
}

#[cfg(unix)]
#[tokio::test]
async fn the_database_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    for entry in std::fs::read_dir(server.data_dir()).expect("readable") {
        let entry = entry.expect("readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let mode = entry.metadata().expect("there").permissions().mode() & 0o077;
        assert!(!name.starts_with("bongsu.db") || mode == 0, "{name}: {mode:o}");
    }
}

#[tokio::test]
async fn a_configured_secret_signs_what_the_command_line_makes() {
    let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET));
    let data_dir = server.data_dir().to_string_lossy();
    let args = ["token", "create", "--sub", "kim", "--json", "--data-dir", &data_dir];
    let (_, out, _) = crate::support::run_cli_with(&[("JWT_SECRET", SECRET)], &args);
    let made: Value = serde_json::from_str(&out).expect("JSON");
    let token = made["token"].as_str().expect("a token");
    accepted(&server.api(), token).await;
    let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
    validation.set_required_spec_claims(&["exp", "sub"]);
    let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
    let read =
        jsonwebtoken::decode::<Value>(token, &key, &validation).expect("anybody with the secret reads it");
    assert_eq!(read.claims["sub"], "kim");
    let (_, out, err) = crate::support::run_cli_with(
        &[("JWT_SECRET", SECRET)],
        &["check-config", "--json", "--data-dir", &data_dir],
    );
    assert!(!format!("{out}{err}").contains(SECRET) && out.contains("***"), "{out}");
}

/// `key import` with this on its standard input.
fn import(data_dir: &str, key: &str, words: &[&str]) -> (Option<i32>, String, String) {
    let mut child = Command::new(binary())
        .args(["key", "import", "--json", "--data-dir", data_dir])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it spawns");
    child.stdin.take().expect("piped").write_all(key.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn an_imported_key_lives_on_and_only_its_hash_is_kept() {
    let server = Server::start();
    let data_dir = server.data_dir().to_string_lossy();
    let key = "glec_live_0123456789abcdef";
    let (code, out, err) =
        import(&data_dir, &format!("{key}\n"), &["--tenant", "acme", "--scopes", "publish,subscribe"]);
    assert_eq!(code, Some(0), "{err}");
    let made: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&made["tenant"], &made["scopes"]), (&json!("acme"), &json!(["publish", "subscribe"])));
    assert!(!out.contains(key) && !err.contains(key));
    let api = server.api_with(key);
    assert_eq!(api.listen("topic:a", None).await.ready().await["tenant_id"], "acme");
    accepted(&server.api(), key).await;
    // bound to a user it acts as that user, whatever its scopes
    let (code, _, err) =
        import(&data_dir, "glec_live_of_the_user_kim", &["--scopes", "publish,admin", "--sub", "kim"]);
    assert_eq!(code, Some(0), "{err}");
    let bound = server.api_with("glec_live_of_the_user_kim");
    assert_eq!(bound.listen("user:kim", None).await.ready().await["user_id"], "kim");
    bound.get("/v2/realtime/stream?topics=admin").await.problem(403);
    let event = json!({"topic": "topic:a", "type": "tick", "data": 1});
    bound.post("/v2/events", &event).await.problem(403);
    for (key, said) in [
        (key, "known already"),
        ("short", "16-512"),
        ("with a space in the middle", "16-512"),
        ("", "16-512"),
        ("aaaaaaaaaa.bbbbbbbbbb.cccccccccc", "JWT"),
    ] {
        let (code, _, err) = import(&data_dir, key, &["--scopes", "publish"]);
        assert_eq!(code, Some(1), "{key}");
        assert!(err.contains(said), "{err}");
    }
}

#[tokio::test]
async fn key_files_that_do_not_fit_end_the_start_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let rsa = Issuer::new(Algorithm::RS256, "rsa");
    let good = rsa.configured(dir.path());
    for (keys, said) in [
        (good.replace("RS256", "ES256"), "jwt.keys \"rsa\""),
        (good.replace("rsa.pem", "none.pem"), "none.pem"),
        (good.replace("RS256", "HS512"), "HS512"),
        (good.replace("file", "secret"), "\"rsa\": RS256 needs a file"),
        (format!("{good}, {good}"), "ids of their own"),
        ("{id = \"installation\", algorithm = \"HS256\", secret = \"s\"}".to_owned(), "ids of their own"),
        (good.replace("id =", "kid ="), "kid"),
    ] {
        let file = dir.path().join("wrong.toml");
        std::fs::write(&file, format!("[jwt]\nkeys = [{keys}]\n")).expect("writable");
        let args = vec!["--config".to_owned(), file.to_string_lossy().into_owned()];
        let error = Server::refuse(ServerOptions { args, ..ServerOptions::default() }, "127.0.0.1:0");
        assert!(error.contains(said), "{keys}: {error}");
    }
    let options = ServerOptions::default().set("jwt.jwks_url", "file:///etc/passwd");
    assert!(Server::refuse(options, "127.0.0.1:0").contains("jwt.jwks_url"));
}

#[tokio::test]
async fn what_compatibility_lets_pass_is_warned_of_at_the_start() {
    let options = ServerOptions::default()
        .set("compat.anonymous_user", "123")
        .set("compat.trust_identity_headers", "127.0.0.0/8")
        .env("JWT_SECRET", "short");
    let server = Server::with(options);
    let log = server.stderr();
    for said in ["compat.anonymous_user", "compat.trust_identity_headers", "shorter than 32 bytes"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    // and passes nowhere else
    let request = server.api().anonymous().request("GET", "/v2/fleets");
    let request = request.header("x-tenant-id", "default").header("x-user-id", "kim");
    assert_eq!(Api::send(request).await.expect("an answer").problem(401), "missing_credentials");
}
