//! A WebSocket client that shows everything it gets: tungstenite, another implementation than the server's.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// An open connection.
pub struct Ws {
    stream: WebSocketStream<Box<dyn Io>>,
    requests: u64,
    /// Where a reconnect would resume.
    pub cursor: Option<String>,
    /// What came while something else was waited for.
    aside: std::collections::VecDeque<Value>,
}

/// What the server said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code.
    pub code: u16,
    /// The reason as sent.
    pub reason: String,
}

impl Ws {
    /// Connects; the error is the status of the answer.
    pub async fn try_open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).await.map_err(|_| 0_u16)?;
        Ws::over(stream, &address.to_string(), path, headers).await
    }

    /// The same over a connection that is there, to a host of this name.
    pub async fn over(
        stream: impl Io + 'static,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{host}{path}").into_client_request().expect("a request");
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        match client_async(request, Box::new(stream) as Box<dyn Io>).await {
            Ok((stream, _)) => Ok(Ws { stream, requests: 0, cursor: None, aside: Default::default() }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// Connects with a key in the handshake.
    pub async fn open(address: SocketAddr, key: &str, query: &str) -> Self {
        let path = format!("/v2/realtime/ws?{query}");
        let open = Ws::try_open(address, &path, &[("x-api-key", key)]).await;
        open.unwrap_or_else(|status| panic!("no connection but {status}"))
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.expect("sent");
    }

    /// Sends any frame.
    pub async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("sent");
    }

    /// Sends a request; returns its number.
    pub async fn request(&mut self, op: &str, fields: Value) -> u64 {
        self.requests += 1;
        let mut request = json!({"id": self.requests, "op": op});
        request.as_object_mut().unwrap().extend(fields.as_object().expect("an object").clone());
        self.send_text(&request.to_string()).await;
        self.requests
    }

    /// Sends a request and waits for its answer; what comes before it is kept.
    pub async fn ask(&mut self, op: &str, fields: Value) -> Value {
        let id = self.request(op, fields).await;
        let mut before = Vec::new();
        loop {
            let value = self.next().await.unwrap_or_else(|closed| panic!("closed: {closed:?}"));
            if value["reply"] == id {
                before.into_iter().rev().for_each(|value| self.aside.push_front(value));
                return value;
            }
            before.push(value);
        }
    }

    /// The data of a request's answer.
    pub async fn done(&mut self, op: &str, fields: Value) -> Value {
        let reply = self.ask(op, fields).await;
        assert_eq!(reply["ok"], true, "{reply}");
        reply["data"].clone()
    }

    /// The code of a request's refusal.
    pub async fn refused(&mut self, op: &str, fields: Value) -> String {
        let reply = self.ask(op, fields).await;
        assert_eq!(reply["ok"], false, "{reply}");
        reply["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// The next text frame as JSON; the error is how the connection ended.
    pub async fn next(&mut self) -> Result<Value, Closed> {
        if let Some(value) = self.aside.pop_front() {
            return Ok(value);
        }
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something comes");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let value: Value = serde_json::from_str(&text).expect("JSON");
                    self.follow(&value);
                    return Ok(value);
                }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame
                        .map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    return Err(Closed { code, reason });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Closed { code: 1006, reason: String::new() }),
            }
        }
    }

    /// The next frame of any kind.
    pub async fn raw(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something comes")
    }

    fn follow(&mut self, value: &Value) {
        let moves = value["replay"].is_null();
        let position = match value["event"].as_str() {
            Some("ready") => value["data"]["position"].as_str(),
            Some(_) if moves => value["id"].as_str(),
            Some(_) => None,
            None => value["position"].as_str(),
        };
        if let Some(position) = position {
            self.cursor = Some(position.to_owned());
        }
    }

    /// The data of `ready`, which comes first.
    pub async fn ready(&mut self) -> Value {
        let value = self.next().await.expect("ready");
        assert_eq!(value["event"], "ready", "{value}");
        value["data"].clone()
    }

    /// The next event of a topic; positions are passed over.
    pub async fn event(&mut self) -> Value {
        loop {
            let value = self.next().await.unwrap_or_else(|closed| panic!("closed: {closed:?}"));
            if value["event"].is_string() && value["topic"].is_string() {
                return value;
            }
            assert!(value["position"].is_string(), "{value}");
        }
    }

    /// How the connection ends; whatever comes before is passed over.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }
}
