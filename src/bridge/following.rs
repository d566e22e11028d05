use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::follower::Follower;
use crate::domain::Position;
use crate::log::{LogError, TenantLog};

/// What whoever asks for a log is told.
pub(super) type Opened = Result<Arc<TenantLog>, LogError>;

/// One tenant's log, followed.
#[derive(Default)]
pub(super) struct Following {
    pub follower: Follower,
    pub log: Option<Arc<TenantLog>>,
    /// Whether the log is being asked for its top, and whether it is to be asked again.
    pub asking: bool,
    pub ask_again: bool,
    /// Who waits until the log is open.
    pub openers: Vec<oneshot::Sender<Opened>>,
    /// Who waits for the answer to a question that has not been asked yet; for one that has been.
    pub asked_next: Vec<(Position, oneshot::Sender<Opened>)>,
    pub asked_now: Vec<(Position, oneshot::Sender<Opened>)>,
    /// Who waits until an event is here.
    pub awaited: Vec<(Position, oneshot::Sender<Opened>)>,
    pub idle_since: Option<Instant>,
}

impl Following {
    /// Answers those whose event is here by now.
    pub fn answer_awaited(&mut self) {
        let Some(log) = &self.log else { return };
        let head = log.head();
        for (position, waiter) in std::mem::take(&mut self.awaited) {
            if position.epoch == head.epoch && position.seq > head.seq {
                self.awaited.push((position, waiter));
            } else {
                let _ = waiter.send(Ok(log.clone()));
            }
        }
    }
}
