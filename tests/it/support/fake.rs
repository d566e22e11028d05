//! A server that speaks just enough to be measured, and does not deliver what it should.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// Which of the missed events, by their numbers, a resuming client gets.
type Replay = dyn Fn(&[u64]) -> Vec<u64> + Send + Sync;

/// It ends with the test's process.
pub struct Fake {
    address: SocketAddr,
}

struct State {
    /// What was published since the last listener resumed, and on which position.
    log: Vec<(u64, Value)>,
    listeners: HashMap<u64, TcpStream>,
    replay: Box<Replay>,
}

impl Fake {
    /// Serves event streams of a single topic: live as it should, replays as `replay` says.
    pub fn start(replay: impl Fn(&[u64]) -> Vec<u64> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (log, listeners, replay) = (Vec::new(), HashMap::new(), Box::new(replay));
        let state = Arc::new(Mutex::new(State { log, listeners, replay }));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (stream, state) = (stream.expect("a connection"), state.clone());
                std::thread::spawn(move || serve(number as u64, stream, &state));
            }
        });
        Fake { address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(number: u64, mut stream: TcpStream, state: &Mutex<State>) {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        seen.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut state = state.lock().expect("no panic while held");
        if head.starts_with("GET ") {
            state.listen(number, &stream, head);
        } else if let Ok(event) = serde_json::from_str::<Value>(body) {
            let id = state.publish(event);
            let answer = format!(r#"{{"id":"{id}"}}"#);
            let head = format!("HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\n\r\n", answer.len());
            // whoever has gone needs no answer
            let _ = stream.write_all((head + &answer).as_bytes());
        } else {
            continue;
        }
        seen.clear();
    }
    state.lock().expect("no panic while held").listeners.remove(&number);
}

impl State {
    fn listen(&mut self, number: u64, stream: &TcpStream, head: &str) {
        let mut own = stream.try_clone().expect("a socket");
        let cursor = head.split("&cursor=").nth(1).and_then(|rest| rest.split(' ').next());
        let after = cursor.and_then(|cursor| cursor.split_once('-')?.1.parse().ok());
        let missed: Vec<u64> =
            self.log.iter().map(|(seq, _)| *seq).filter(|seq| *seq > after.unwrap_or(u64::MAX)).collect();
        let mut text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: ready\n\
                        data: {\"recovered\":true,\"max_frame_bytes\":1}\n\n"
            .to_owned();
        for seq in (self.replay)(&missed) {
            text += &frame(&self.log[seq as usize - 1].1);
        }
        own.write_all(text.as_bytes()).expect("a listener");
        self.listeners.insert(number, own);
    }

    fn publish(&mut self, event: Value) -> String {
        let seq = self.log.len() as u64 + 1;
        for listener in self.listeners.values_mut() {
            // one that has gone is removed by its own thread
            let _ = listener.write_all(frame(&event).as_bytes());
        }
        self.log.push((seq, event));
        format!("00000000000000ab-{seq}")
    }
}

fn frame(event: &Value) -> String {
    format!("event: tick\ndata: {event}\n\n")
}
