use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::assembly::Message;
use super::requests::{Auth, BadRequest, Op, Request, reply};
use super::requests_actor::Perform;
use super::session_actor::{Failed, Left, SessionActor};
use super::{Inbox, SendQueue};
use crate::actor_kit::Port;
use crate::domain::{Refusal, RefusalKind};
use crate::wire::{CloseCode, websocket};

/// The session behind a connection, once there is one.
pub type Slot = Rc<RefCell<Option<Port<SessionActor>>>>;

/// Lets a connection in that brought no credentials along.
pub trait Doorkeeper {
    /// Puts a session into `slot` whose frames come out of `queue`.
    fn admit(
        &self,
        auth: Auth,
        queue: Rc<SendQueue>,
        slot: Slot,
    ) -> LocalBoxFuture<'static, Result<(), Refusal>>;
}

/// Hands the messages of a native WebSocket connection to its session; ends it with the connection.
pub struct SessionInbox {
    queue: Rc<SendQueue>,
    slot: Slot,
    doorkeeper: Option<Rc<dyn Doorkeeper>>,
}

impl SessionInbox {
    /// For a connection whose frames come out of `queue`; a stranger is let in by the doorkeeper.
    pub fn new(queue: Rc<SendQueue>, slot: Slot, doorkeeper: Option<Rc<dyn Doorkeeper>>) -> Self {
        SessionInbox { queue, slot, doorkeeper }
    }

    fn tell(&self, id: u64, outcome: Result<&str, &Refusal>) {
        self.queue.push_control(websocket::text_frame(&reply(id, outcome)));
    }

    /// The only request of a stranger is `auth`.
    fn greet(&mut self, text: &str) -> Option<LocalBoxFuture<'static, ()>> {
        let doorkeeper = self.doorkeeper.clone()?;
        match Request::parse(text) {
            Ok(Request { id, op: Op::Auth(auth) }) => {
                let (queue, slot) = (self.queue.clone(), self.slot.clone());
                Some(Box::pin(async move {
                    let outcome = doorkeeper.admit(auth, queue.clone(), slot).await;
                    // before `ready`, which the session sends at its first turn
                    let answer = reply(id, outcome.as_ref().map(|()| "{}"));
                    queue.push_control(websocket::text_frame(&answer));
                    let retry = outcome.as_ref().err().and_then(|refusal| refusal.retry_after);
                    match outcome.err().map(|refusal| refusal.kind) {
                        None => {}
                        Some(RefusalKind::Unauthenticated) => queue.finish_with(CloseCode::Unauthenticated),
                        Some(RefusalKind::Forbidden) => queue.finish_with(CloseCode::Forbidden),
                        Some(RefusalKind::RateLimited) => {
                            let code = CloseCode::RateLimited;
                            queue.finish(code, retry.unwrap_or(code.default_retry()));
                        }
                        Some(RefusalKind::Unavailable | RefusalKind::Internal) => {
                            queue.finish_with(CloseCode::GoingAway);
                        }
                        // it may try again
                        Some(_) => {}
                    }
                }))
            }
            Ok(Request { id, .. }) => {
                let refusal =
                    Refusal::new(RefusalKind::Unauthenticated, "unauthenticated", "auth comes first");
                self.tell(id, Err(&refusal));
                self.queue.finish_with(CloseCode::Unauthenticated);
                None
            }
            Err(BadRequest::Refused(id, refusal)) => {
                self.tell(id, Err(&refusal));
                None
            }
            Err(BadRequest::Unanswerable) => {
                self.queue.finish_with(CloseCode::Protocol);
                None
            }
        }
    }
}

impl Inbox for SessionInbox {
    fn receive(&mut self, message: Message) -> Option<LocalBoxFuture<'static, ()>> {
        let Message::Text(text) = message else {
            self.queue.finish_with(CloseCode::Protocol);
            self.failed(CloseCode::Protocol);
            return None;
        };
        let session = self.slot.borrow().clone();
        let Some(session) = session else { return self.greet(&text) };
        self.doorkeeper = None;
        let (done, answered) = oneshot::channel();
        // one at a time: its mailbox has room
        session.tell(Perform { text, done }).ok()?;
        Some(Box::pin(async move { drop(answered.await) }))
    }

    fn failed(&mut self, code: CloseCode) {
        if let Some(session) = &*self.slot.borrow() {
            // a session that has stopped knows its own reason
            let _ = session.tell(Failed(code));
        }
    }
}

impl Drop for SessionInbox {
    fn drop(&mut self) {
        let stalled = self.queue.stalled_for(Instant::now());
        self.queue.leave();
        if let Some(session) = self.slot.take() {
            // a full mailbox changes nothing: the registry's sweep finds the queue abandoned
            let _ = session.tell(Left { stalled });
        }
    }
}
