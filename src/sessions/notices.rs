use std::cell::Cell;
use std::rc::Rc;

use super::session_actor::{Noticed, SessionActor};
use crate::actor_kit::Port;
use crate::rooms::{Notice, SessionHandle};
use crate::wire::CloseCode;

/// What its registry has said, kept beside the mailbox: it is never refused.
#[derive(Default)]
pub(super) struct Notices {
    pub closed: Cell<Option<CloseCode>>,
    pub recheck: Cell<bool>,
    pub renewed: Cell<bool>,
    /// From where to catch up, and whether what it may hear is judged already.
    pub behind: Cell<Option<(u64, bool)>>,
}

/// How its registry reaches a session.
pub(super) struct Handle {
    pub port: Port<SessionActor>,
    pub notices: Rc<Notices>,
}

impl SessionHandle for Handle {
    fn notify(&self, notice: Notice) {
        match notice {
            Notice::FellBehind { after } => self.notices.behind.set(Some((after, true))),
            Notice::Created { after } => self.notices.behind.set(Some((after, false))),
            Notice::Renewed => {
                self.notices.behind.set(None);
                self.notices.renewed.set(true);
            }
            Notice::Recheck => self.notices.recheck.set(true),
            Notice::Closed(code) => self.notices.closed.set(Some(code)),
        }
        // it is looked at after every message: one that waits in a full mailbox does as well
        let _ = self.port.tell(Noticed);
    }
}
