use std::sync::Arc;

use tokio::sync::oneshot;

use super::Grant;
use super::requests::{Refused, Subscribe};
use super::session::Session;
use crate::log::Recovery;
use crate::wire::RecoveryFailure;

/// A subscription that a client asked for while connected, until it is answered.
///
/// The past of its topics is sent beside what is live, marked with the request; they join at the position
/// that the answer states: no gap, no duplicate.
#[derive(Debug)]
pub(super) struct Late {
    /// The request.
    pub id: u64,
    /// What it asks.
    pub subscribe: Subscribe,
    /// None while the session itself is still catching up.
    pub replay: Option<Replay>,
    /// Lets the next request in when it is dropped.
    pub done: oneshot::Sender<()>,
}

/// How far a late subscription has come.
#[derive(Debug)]
pub(super) struct Replay {
    /// What it adds; pulls the past.
    pub session: Session,
    /// What it does not add.
    pub refused: Vec<Refused>,
    /// What `since` led to.
    pub recovery: Recovery,
    /// Set when it can join as soon as the session is live again.
    pub waits: Option<Join>,
}

/// Where topics join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// At the head, without anything of the past.
    Now,
    /// After the event with this number, up to which the past has been sent.
    After(u64),
}

impl Replay {
    /// The topics granted, with what `since` led to.
    pub fn new(id: u64, granted: Arc<[Grant]>, refused: Vec<Refused>, recovery: Recovery) -> Self {
        Replay { session: Session::late(granted, id), refused, recovery, waits: None }
    }

    /// The past cannot be had any more.
    pub fn fail(&mut self, reason: RecoveryFailure) {
        self.recovery = Recovery::Failed(reason);
    }
}
