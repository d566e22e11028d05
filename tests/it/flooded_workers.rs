//! Workers whose mailboxes are full of volatile events: what ends a session reaches it all the same. The sweep
//! comes as seldom as it may, so that nothing is owed to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Api, Issuer, Server, ServerOptions, Sse, Ws, eventually, from_now, run_cli};

const SECRET: &str = "a secret of at least thirty-two bytes";
const DROPPED: &str = "bongsu_events_dropped_total{reason=\"worker_busy\"}";
/// What one request publishes on its topics; together more than a mailbox takes.
const EVENTS: usize = 40;
const TOPICS: usize = 128;

/// A server without limits on publishes, and somebody who publishes more than its workers can take.
struct Flooded {
    server: Server,
    operator: Api,
    publishers: Vec<JoinHandle<()>>,
}

impl Flooded {
    async fn start() -> Self {
        let options = ServerOptions::default().env("JWT_SECRET", SECRET).set("server.workers", 2);
        let options = options.set("limits.key_publishes_per_s", 0).set("limits.topic_publishes_per_s", 0);
        let server = Server::with(options.set("sessions.sweep_ms", 5000));
        let operator = server.operator();
        let topics: Vec<_> = (0..TOPICS).map(|n| format!("topic:{n}")).collect();
        let event = json!({"topics": topics, "type": "tick", "class": "volatile", "data": 1});
        let body: Arc<str> = json!({"events": vec![event; EVENTS]}).to_string().into();
        let publishers = (0..2).map(|_| {
            let (api, body) = (server.api(), body.clone());
            tokio::spawn(async move {
                loop {
                    api.post_text("/v2/events/batch", &*body).await.expect(202);
                }
            })
        });
        let publishers = publishers.collect();
        let flooded = Flooded { server, operator, publishers };
        flooded.overflows().await;
        flooded
    }

    /// Returns when events have been dropped since this was called, because mailboxes were full.
    async fn overflows(&self) {
        let before = self.operator.metric(DROPPED).await;
        eventually("a full mailbox", async || (self.operator.metric(DROPPED).await > before).then_some(()))
            .await;
    }

    /// Waits for the ends of all, which must be within a second of `since` and with this code, while mailboxes
    /// overflow.
    async fn all_end(&self, since: Instant, code: u64, sessions: Vec<JoinHandle<(u64, Instant)>>) {
        for session in sessions {
            let (ended_with, at) = session.await.expect("no panic");
            assert_eq!(ended_with, code);
            let after = at.saturating_duration_since(since);
            assert!(after < Duration::from_secs(1), "{after:?}");
        }
        self.overflows().await;
    }
}

impl Drop for Flooded {
    fn drop(&mut self) {
        self.publishers.iter().for_each(JoinHandle::abort);
    }
}

/// Listens until the end: its code, and when it came.
async fn stream_end(mut stream: Sse) -> (u64, Instant) {
    let close = stream.rest().await.pop().expect("a close");
    (close.data["code"].as_u64().expect("a code"), Instant::now())
}

async fn socket_end(mut socket: Ws) -> (u64, Instant) {
    (socket.closed().await.code.into(), Instant::now())
}

/// Streams and sockets with these credentials, several: some on each worker.
async fn sessions(server: &Server, (header, value): (&str, &str)) -> Vec<JoinHandle<(u64, Instant)>> {
    let api = server.api().anonymous();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let request = api.request("GET", "/v2/realtime/stream?topics=topic:0").header(header, value);
        let mut stream = Sse::open(request).await;
        stream.ready().await;
        sessions.push(tokio::spawn(stream_end(stream)));
        let path = "/v2/realtime/ws?topics=topic:0";
        let mut socket =
            Ws::try_open(server.address(), path, &[(header, value)]).await.expect("a connection");
        socket.ready().await;
        sessions.push(tokio::spawn(socket_end(socket)));
    }
    sessions
}

#[tokio::test]
async fn heavy_what_is_revoked_is_gone_within_a_second_while_mailboxes_overflow() {
    let flooded = Flooded::start().await;
    let server = &flooded.server;
    let admin = server.api_of("default", "admin");
    for user in ["kim", "lee"] {
        let claims = json!({"sub": user, "iat": from_now(-5), "exp": from_now(600)});
        let bearer = format!("Bearer {}", Issuer::shared(SECRET, None).sign(&claims));
        let sessions = sessions(server, ("authorization", &bearer)).await;
        flooded.overflows().await;
        admin.post("/v2/admin/kick", &json!({"user": user})).await.expect(200);
        flooded.all_end(Instant::now(), 3501, sessions).await;
    }
    let data_dir = server.data_dir().to_string_lossy();
    let (_, made, _) =
        run_cli(&["key", "create", "--json", "--scopes", "subscribe", "--data-dir", &data_dir]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let sessions = sessions(server, ("x-api-key", made["key"].as_str().expect("a key"))).await;
    flooded.overflows().await;
    admin.delete(&format!("/v2/admin/keys/{}", made["key_id"].as_str().expect("an id"))).await.expect(204);
    flooded.all_end(Instant::now(), 3500, sessions).await;
}

#[tokio::test]
async fn heavy_a_newer_connection_of_a_ticket_replaces_the_older_within_a_second_while_mailboxes_overflow() {
    let flooded = Flooded::start().await;
    let api = flooded.server.api();
    let made: Value = api.post("/v2/realtime/tickets", &json!({})).await.expect(201);
    let ticket = made["ticket"].as_str().expect("a ticket");
    let path = format!("/v2/realtime/stream?topics=topic:0&ticket={ticket}");
    let connect = async || {
        let mut stream = api.anonymous().stream(&path, None).await;
        stream.ready().await;
        (Instant::now(), tokio::spawn(stream_end(stream)))
    };
    let (_, mut last) = connect().await;
    // often enough that older and newer were on different workers
    for _ in 0..8 {
        let (since, newer) = connect().await;
        flooded.all_end(since, 1000, vec![std::mem::replace(&mut last, newer)]).await;
    }
}
