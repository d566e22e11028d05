use super::Grant;
use super::session_actor::SessionActor;
use crate::rooms::ConnectionId;
use crate::wire::Dialect;

/// What a session hears, for those who compute what it is told beside the log.
#[derive(Clone, Copy, Debug)]
pub struct Hearing<'a> {
    /// The session.
    pub id: ConnectionId,
    /// What it may see.
    pub grants: &'a [Grant],
    /// Whether it is told rankings whole.
    pub whole_rankings: bool,
    /// Whether it ends with its first events, and asks for what it is owed before.
    pub is_poll: bool,
    /// Whether it has just gone live.
    pub is_fresh: bool,
}

impl SessionActor {
    /// Says what it hears to those who compute what it is told beside the log.
    pub(super) fn tell_hearing(&mut self, is_fresh: bool) {
        let hearing = Hearing {
            id: self.about.id,
            grants: self.session.grants(),
            whole_rankings: self.queue.takes_whole_rankings(),
            is_poll: self.queue.dialect() == Dialect::Poll,
            is_fresh,
        };
        // while it is catching up, nothing is told to it but the log
        if self.is_live {
            let is_attended = self.context.capabilities.hears(&self.who, hearing);
            if !is_attended {
                self.unattend();
            }
            self.is_attended = is_attended;
        }
    }

    pub(super) fn unattend(&mut self) {
        if std::mem::take(&mut self.is_attended) {
            self.context.capabilities.left(&self.about.tenant, self.about.id);
        }
    }
}
