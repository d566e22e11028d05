use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use super::SendQueue;
use super::session_actor::{Left, SessionActor};
use crate::actor_kit::Port;

/// The body of a server-sent event stream: the connection's queue, frame by frame.
///
/// Each frame is handed over as it is; the dispatcher copies it once and joins what waits into one
/// write. When the client leaves, the dispatcher drops the body, and with it the session ends.
pub struct SseBody {
    queue: Rc<SendQueue>,
    session: Port<SessionActor>,
}

impl SseBody {
    /// The body that drains `queue` for `session`.
    pub fn new(queue: Rc<SendQueue>, session: Port<SessionActor>) -> Self {
        SseBody { queue, session }
    }
}

impl MessageBody for SseBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.queue.poll_next(context).map(|frame| frame.map(Ok))
    }
}

impl Drop for SseBody {
    fn drop(&mut self) {
        let stalled = self.queue.stalled_for(Instant::now());
        self.queue.leave();
        // a full mailbox changes nothing: the registry's sweep finds the queue abandoned
        let _ = self.session.tell(Left { stalled });
    }
}
