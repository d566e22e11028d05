//! Connections: what each may see, what waits for it, and how it ends.
//!
//! A session is an actor for the control plane ([`SessionActor`], around the plain [`Session`]) and a
//! [`SendQueue`] for the data plane, which the room registry fills and the response body drains
//! without passing through a mailbox.

mod batch;
mod frames;
#[cfg(test)]
mod frames_test;
mod listening;
mod poll;
mod poll_answer;
mod send_queue;
#[cfg(test)]
mod send_queue_test;
mod session;
mod session_actor;
mod sse;
mod waiting;

pub use batch::{Batcher, Batching};
pub use frames::Frames;
pub use listening::Listening;
pub use poll::LongPoll;
pub use poll_answer::PollAnswer;
pub use send_queue::{Kind, Outgoing, Pushed, QueueLimits, QueueMetrics, SendQueue};
pub use session::{Grant, Session, Step, audience_of};
pub use session_actor::{SessionActor, SessionContext, SessionRequest};
pub use sse::SseBody;
