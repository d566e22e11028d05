use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use crate::bridge::error::BridgeError;

/// Messages, and their bytes, that may wait to be taken; a connection that brings more is given up, with all that.
const WAITING: usize = 16 * 1024;
const WAITING_BYTES: usize = 64 << 20;

/// What is heard.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Heard {
    /// A message on a channel.
    Message { channel: String, payload: Box<[u8]> },
    /// The server ended the subscription to a channel, as it does when the channel's slot goes to another one.
    Ended { channel: String },
}

/// A connection on which messages are heard, and nothing else is asked.
pub(in crate::bridge) struct Ear {
    link: MultiplexedConnection,
    heard: mpsc::Receiver<Heard>,
    bytes: Arc<AtomicUsize>,
}

impl Ear {
    pub async fn open(client: &Client, config: AsyncConnectionConfig) -> Result<Self, BridgeError> {
        let (sender, heard) = mpsc::channel(WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let (sender, waiting) = (Mutex::new(Some(sender)), bytes.clone());
        let config = config.set_push_sender(move |info: PushInfo| {
            let mut sender = sender.lock().expect("no panic while held");
            let is_taken = match read(info) {
                Ok(None) => true,
                Ok(Some(heard)) => {
                    let room =
                        heard.bytes() <= WAITING_BYTES - waiting.load(Ordering::Relaxed).min(WAITING_BYTES);
                    waiting.fetch_add(heard.bytes(), Ordering::Relaxed);
                    room && sender.as_ref().is_some_and(|own| own.try_send(heard).is_ok())
                }
                Err(Lost) => false,
            };
            if is_taken {
                return Ok(());
            }
            // what has come is taken, then the end is met
            *sender = None;
            Err(Lost)
        });
        let link = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Ear { link, heard, bytes })
    }

    /// The next message; None when the connection is lost, or brought more than was taken.
    pub async fn next(&mut self) -> Option<Heard> {
        let heard = self.heard.recv().await?;
        self.bytes.fetch_sub(heard.bytes(), Ordering::Relaxed);
        Some(heard)
    }

    /// Carries out a command of the `SUBSCRIBE` family for each channel, and waits until all are confirmed.
    pub async fn order(
        &self,
        command: &str,
        channels: impl IntoIterator<Item = &str, IntoIter: Send> + Send,
    ) -> Result<(), BridgeError> {
        let mut all = Pipeline::new();
        for channel in channels {
            all.cmd(command).arg(channel);
        }
        match all.is_empty() {
            true => Ok(()),
            false => Ok(all.query_async::<Value>(&mut self.link.clone()).await.map(drop)?),
        }
    }
}

impl Heard {
    fn bytes(&self) -> usize {
        match self {
            Heard::Message { channel, payload } => channel.len() + payload.len(),
            Heard::Ended { channel } => channel.len(),
        }
    }
}

/// The connection is lost.
struct Lost;

/// Something heard, or nothing of interest.
fn read(PushInfo { kind, mut data, .. }: PushInfo) -> Result<Option<Heard>, Lost> {
    let text = |value: Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    let (channel, payload) = match kind {
        PushKind::Disconnection => return Err(Lost),
        PushKind::SUnsubscribe if !data.is_empty() => {
            return Ok(text(data.swap_remove(0)).map(|channel| Heard::Ended { channel }));
        }
        PushKind::Message | PushKind::SMessage if data.len() == 2 => {
            let payload = data.pop();
            (data.pop(), payload)
        }
        PushKind::PMessage if data.len() == 3 => {
            let payload = data.pop();
            (data.pop(), payload)
        }
        _ => return Ok(None),
    };
    Ok(match (channel.and_then(text), payload) {
        (Some(channel), Some(Value::BulkString(payload))) => {
            Some(Heard::Message { channel, payload: payload.into() })
        }
        _ => None,
    })
}
