use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use super::{Frames, Listening};

/// The body of a server-sent event stream: the connection's queue, frame by frame.
///
/// Each frame is handed over as it is; the dispatcher copies it once and joins what waits into one
/// write. When the client leaves, the dispatcher drops the body, and with it the session ends.
pub struct SseBody {
    frames: Frames,
    _session: Listening,
}

impl SseBody {
    /// The body that drains `frames`, which are those of `session`.
    pub fn new(frames: Frames, session: Listening) -> Self {
        SseBody { frames, _session: session }
    }
}

impl MessageBody for SseBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.frames.poll_next(context).map(|frame| frame.map(Ok))
    }
}
