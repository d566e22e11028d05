use std::rc::Rc;
use std::time::Instant;

use super::SendQueue;
use super::session_actor::{Left, SessionActor};
use crate::actor_kit::Port;

/// A session as the reader of its queue holds it: dropped, the session ends at once.
pub struct Listening {
    queue: Rc<SendQueue>,
    session: Port<SessionActor>,
}

impl Listening {
    /// The reader of `queue`, which `session` fills.
    pub fn new(queue: Rc<SendQueue>, session: Port<SessionActor>) -> Self {
        Listening { queue, session }
    }

    /// What comes for it.
    pub fn queue(&self) -> &Rc<SendQueue> {
        &self.queue
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let stalled = self.queue.stalled_for(Instant::now());
        self.queue.leave();
        // a full mailbox changes nothing: the registry's sweep finds the queue abandoned
        let _ = self.session.tell(Left { stalled });
    }
}
