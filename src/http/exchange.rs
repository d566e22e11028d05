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

    /// What is answered lasts as long as the connection.
    pub fn stream(&self) {
        self.0.set(Phase::Streaming);
    }

    /// Something of the answer was sent; true when the next request is waited for from now on.
    pub fn sent(&self) -> bool {
        if self.0.get() == Phase::Answering {
            self.0.set(Phase::Waiting);
        }
        self.is_waiting()
    }

    /// Whether the next request is waited for.
    pub fn is_waiting(&self) -> bool {
        self.0.get() == Phase::Waiting
    }
}
