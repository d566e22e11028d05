use std::time::Duration;

use bytes::Bytes;

use crate::domain::Position;

/// What became of an event offered to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits, or has replaced an older value.
    Taken,
    /// It was volatile and there was no room.
    Dropped,
    /// It was not for this queue any more: seen before, or the connection is ending.
    Ignored,
    /// It does not fit and must not be lost: the connection has to be cut.
    Overflow,
}

/// What a frame on its way to the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of the stream's own.
    Control,
    /// An event, with the position to which it moves the cursor, if it does.
    Event(Option<Position>),
}

/// A frame on its way to the socket.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame.
    pub frame: Bytes,
    /// What it is.
    pub kind: Kind,
    /// After this time it is no longer worth sending.
    pub lives_for: Option<Duration>,
}
