//! How each server that can be measured is asked to send events, and given some to send.

use super::Transport;

/// A server to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// Bongsu itself.
    Bongsu,
    /// The program that only holds sockets.
    Floor,
    /// nginx with the Nchan module.
    Nchan,
    /// nats-server; listeners by its WebSocket port.
    Nats,
    /// Socket.IO 4 on Node, by its WebSocket transport.
    Socketio,
    /// A NestJS controller with `@Sse`.
    Nestjs,
}

/// What of an answer says that a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Its head.
    Head,
    /// These bytes behind its head.
    Text(&'static str),
}

/// What says that a publish was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An HTTP response of status 2xx.
    Http,
    /// These bytes.
    Text(&'static str),
}

impl Peer {
    /// Request path of a listener; `{topic}` stands for its topic.
    pub(super) fn listen_path(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Peer::Bongsu | Peer::Floor, Transport::Sse) => "/v2/realtime/stream?topics={topic}",
            (Peer::Bongsu | Peer::Floor, Transport::Websocket) => "/v2/realtime/ws?topics={topic}",
            (Peer::Nchan, _) => "/sub/{topic}",
            (Peer::Nats, _) => "/",
            (Peer::Socketio, _) => "/socket.io/?EIO=4&transport=websocket&topic={topic}",
            (Peer::Nestjs, _) => "/events/{topic}",
        }
    }

    /// What a listener sends behind its request's answer, as one message.
    pub(super) fn hello(self, topic: &str) -> Option<String> {
        match self {
            Peer::Nats => Some(format!("CONNECT {{\"verbose\":false}}\r\nSUB {topic} 1\r\nPING\r\n")),
            Peer::Socketio => Some("40".to_owned()),
            Peer::Bongsu | Peer::Floor | Peer::Nchan | Peer::Nestjs => None,
        }
    }

    pub(super) fn ready(self) -> Ready {
        match self {
            // it comes behind what says whether the cursor was honoured
            Peer::Bongsu => Ready::Text("\"max_frame_bytes\""),
            Peer::Floor | Peer::Nchan | Peer::Nestjs => Ready::Head,
            Peer::Nats => Ready::Text("PONG\r\n"),
            Peer::Socketio => Ready::Text("40{"),
        }
    }

    pub(super) fn answer(self) -> Answer {
        match self {
            Peer::Nats => Answer::Text("PONG\r\n"),
            _ => Answer::Http,
        }
    }

    /// The bytes of a publish of `data`, which is JSON; `headers` are whole lines.
    pub(super) fn publish(self, (host, headers): (&str, &str), topic: &str, data: &str) -> Vec<u8> {
        let post = |path: &str, body: &str| post((host, headers), path, body);
        let text = match self {
            Peer::Bongsu | Peer::Floor => post(
                "/v2/events",
                &format!(r#"{{"topic":"{topic}","type":"tick","class":"durable","data":{data}}}"#),
            ),
            Peer::Nchan => post(&format!("/pub/{topic}"), data),
            Peer::Socketio | Peer::Nestjs => post(&format!("/publish/{topic}"), data),
            Peer::Nats => {
                format!("CONNECT {{\"verbose\":false}}\r\nPUB {topic} {}\r\n{data}\r\nPING\r\n", data.len())
            }
        };
        text.into_bytes()
    }
}

/// The bytes of the command that reports a fleet's intensity to Bongsu.
pub(super) fn report(to: (&str, &str), fleet: &str, intensity: u64) -> Vec<u8> {
    let body = format!(r#"{{"fleet_id":"{fleet}","new_ei":{intensity}}}"#);
    post(to, "/v2/fleet/ei-update", &body).into_bytes()
}

fn post((host, headers): (&str, &str), path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One masked text frame (RFC 6455 §5.2); a mask of zeros leaves the text as it is.
pub(super) fn masked_frame(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut frame = match length {
        0..126 => vec![0x81, 0x80 | length as u8],
        _ => [&[0x81, 0xfe], &(length as u16).to_be_bytes()[..]].concat(),
    };
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}
