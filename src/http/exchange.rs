use std::cell::Cell;

/// Where a connection that is kept alive stands between its requests: told by them, asked by its socket.
///
/// The HTTP service ends a first request that does not come to its end, and a connection on which nothing
/// comes; not one on which a part of a further request has come.
#[derive(Debug)]
pub struct Exchange(Cell<Phase>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Answering,
    Answered,
    Waiting,
    Streaming,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange(Cell::new(Phase::Answering))
    }
}

impl Exchange {
    /// A request is there, and is being answered.
    pub fn begin(&self) {
        self.0.set(Phase::Answering);
    }

    /// The answer is there; one without an end lasts as long as the connection.
    pub fn answered(&self, is_endless: bool) {
        self.0.set(if is_endless { Phase::Streaming } else { Phase::Answered });
    }

    /// Something was sent, perhaps still of the answer before; true when the next request is waited for from now on.
    pub fn sent(&self) -> bool {
        if self.0.get() == Phase::Answered {
            self.0.set(Phase::Waiting);
        }
        self.is_waiting()
    }

    /// Whether the next request is waited for.
    pub fn is_waiting(&self) -> bool {
        self.0.get() == Phase::Waiting
    }
}
