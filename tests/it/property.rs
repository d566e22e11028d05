//! Random listeners, a random publisher and random crashes; the seed decides everything that we decide.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::client::seq;
use crate::support::{
    Api, Client, Dice, Frame, PATIENCE, Server, ServerOptions, Transport,
    on_every_transport_of_both_backends, pause,
};

const TOPICS: [&str; 4] = ["topic:a", "topic:b", "topic:c", "topic:d"];

/// What is in the log, as far as its answers tell.
#[derive(Default)]
struct Published {
    /// Positions of durable events with their number, by topic.
    durable: HashMap<&'static str, Vec<(u64, u64)>>,
    /// The newest value by topic.
    latest: HashMap<&'static str, u64>,
}

/// Publishes until the answer is known: an event whose answer a crash took is sent again under its key.
async fn publish(api: &Api, event: &Value, key: &str) -> Option<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "an answer in time");
        let mut request = api.request("POST", "/v2/events").json(event);
        if event["class"] != "volatile" {
            request = request.header("Idempotency-Key", key);
        }
        match Api::send(request).await {
            Ok(answer) if answer.status == 202 => return Some(answer.json()),
            Ok(answer) => panic!("{}: {}", answer.status, answer.text),
            Err(_) if event["class"] == "volatile" => return None,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn run_publisher(api: Api, mut dice: Dice, rounds: u64) -> Published {
    let mut published = Published::default();
    for n in 0..rounds {
        let topic = TOPICS[dice.roll(4) as usize];
        let class = ["durable", "durable", "latest", "volatile"][dice.roll(4) as usize];
        let mut event = json!({"topic": topic, "type": class, "class": class, "data": {"n": n}});
        // some are large, so that slow readers fill their queues
        event["data"]["fill"] = "x".repeat(dice.roll(1200) as usize).into();
        let Some(answer) = publish(&api, &event, &format!("n{n}")).await else {
            continue;
        };
        match class {
            "durable" => {
                let position = seq(answer["position"].as_str().expect("a position"));
                published.durable.entry(topic).or_default().push((position, n));
            }
            "latest" => {
                published.latest.insert(topic, n);
            }
            _ => {}
        }
    }
    published
}

/// What one listener has got over all its connections.
struct Listener {
    transport: Transport,
    topics: Vec<&'static str>,
    cursor: String,
    since: u64,
    durable: Vec<(u64, u64)>,
    latest: HashMap<String, u64>,
    connections: u64,
}

impl Listener {
    /// One connection, until it breaks, is closed, has heard `limit` frames, or everything up to `end`.
    async fn connection(
        &mut self,
        api: &Api,
        dice: &mut Dice,
        limit: u64,
        end: &watch::Receiver<Option<u64>>,
    ) {
        let topics = self.topics.join(",");
        // the server may be away
        let connected = Client::try_over(self.transport, api, &topics, Some(&self.cursor)).await;
        let Some((mut client, ready)) = connected else {
            tokio::task::yield_now().await;
            return;
        };
        assert_eq!(ready["recovered"], true, "{ready}");
        self.connections += 1;
        let mut last = seq(&self.cursor);
        let mut heard = 0;
        while heard < limit && end.borrow().is_none_or(|end| seq(&self.cursor) < end) {
            if dice.roll(20) == 0 {
                // a slow reader: bytes pile up meanwhile
                pause(Duration::from_millis(dice.roll(30))).await;
            }
            let Some(frame) = client.next().await else { return };
            heard += 1;
            match frame {
                Frame::Event(event) => {
                    assert!(self.topics.contains(&event.topic.as_str()), "{event:?}");
                    let n = event.data["n"].as_u64().expect("a number");
                    if let Some(id) = &event.id {
                        assert!(seq(id) > last, "ids strictly increase: {id} after {last}");
                        last = seq(id);
                    }
                    match event.name.as_str() {
                        "durable" => self.durable.push((seq(event.id.as_deref().expect("an id")), n)),
                        "latest" => drop(self.latest.insert(event.topic, n)),
                        "volatile" => assert_eq!(event.id, None),
                        other => panic!("nobody published {other}"),
                    }
                }
                Frame::Position(position) | Frame::Heartbeat(position) => {
                    assert!(seq(&position) >= last, "{position} after {last}");
                    last = seq(&position);
                }
                Frame::Close(close) => {
                    assert!([1001, 3001].contains(&close["code"].as_u64().unwrap_or_default()), "{close}");
                    return;
                }
                Frame::Ready(_) => panic!("ready comes once"),
            }
            self.cursor = client.cursor().expect("a cursor").to_owned();
        }
    }

    fn check(mut self, published: &Published) {
        let mut expected: Vec<(u64, u64)> = self
            .topics
            .iter()
            .flat_map(|topic| published.durable.get(topic).into_iter().flatten().copied())
            .filter(|(position, _)| *position > self.since)
            .collect();
        expected.sort_unstable();
        assert_eq!(self.durable, expected, "every durable event once and in order");
        for topic in &self.topics {
            assert_eq!(
                self.latest.remove(*topic),
                published.latest.get(topic).copied(),
                "the newest value of {topic}"
            );
        }
    }
}

async fn scenario(transport: Transport, seed: u64) {
    eprintln!("seed {seed}");
    let mut dice = Dice::new(seed);
    let options = ServerOptions::default()
        .set("log.window_count", 32)
        .set("sessions.queue_bytes", 16_384)
        .set("sessions.queue_items", 16)
        .set("sessions.heartbeat_ms", 200)
        .set("sessions.sweep_ms", 50);
    let mut server = Server::with(options);
    let api = server.api();
    let (_, ready) = Client::over(transport, &api, "topic:a", None).await;
    let start = ready["position"].as_str().expect("a position").to_owned();
    let publishing = tokio::spawn(run_publisher(api.clone(), Dice::new(dice.roll(u64::MAX)), 400));
    let (finish, finished) = watch::channel(None::<u64>);
    let listening: Vec<_> = (0..4)
        .map(|index| {
            let (api, finished, mut dice) = (api.clone(), finished.clone(), Dice::new(dice.roll(u64::MAX)));
            let mut listener = Listener {
                transport,
                topics: TOPICS[..=index].to_vec(),
                cursor: start.clone(),
                since: seq(&start),
                durable: Vec::new(),
                latest: HashMap::new(),
                connections: 0,
            };
            tokio::spawn(async move {
                let deadline = tokio::time::Instant::now() + PATIENCE * 3;
                loop {
                    assert!(tokio::time::Instant::now() < deadline, "everything in time");
                    let end = *finished.borrow();
                    if end.is_some_and(|end| seq(&listener.cursor) >= end) {
                        return listener;
                    }
                    let limit = 1 + dice.roll(40);
                    listener.connection(&api, &mut dice, limit, &finished).await;
                }
            })
        })
        .collect();
    let mut kills = 0;
    while !publishing.is_finished() {
        pause(Duration::from_millis(100 + dice.roll(400))).await;
        let node = dice.roll(server.count() as u64) as usize;
        server.kill_node(node);
        server.start_node(node);
        kills += 1;
    }
    let mut published = publishing.await.expect("published");
    assert!(kills > 1, "the fault has happened");
    // one more event, on the topic that all listen to, moves every cursor to the end
    let last = api.publish("topic:a", "latest", json!({"n": u64::MAX})).await;
    published.latest.insert("topic:a", u64::MAX);
    finish.send(Some(seq(&last))).expect("they listen");
    for listener in listening {
        let listener = listener.await.expect("it heard everything");
        assert!(listener.connections > 1);
        listener.check(&published);
    }
}

on_every_transport_of_both_backends! {
    listeners_get_everything_whatever_breaks_first_seed,
    listeners_get_everything_whatever_breaks_second_seed,
}

async fn listeners_get_everything_whatever_breaks_first_seed(transport: Transport) {
    scenario(transport, 1).await;
}

async fn listeners_get_everything_whatever_breaks_second_seed(transport: Transport) {
    scenario(transport, 0x0b0_9545).await;
}
