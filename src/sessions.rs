//! Connections: what each may see, what waits for it, and how it ends.
//!
//! A session is an actor for the control plane ([`SessionActor`], around the plain [`Session`]) and a
//! [`SendQueue`] for the data plane, which the room registry fills and the response body drains
//! without passing through a mailbox.

mod about;
mod assembly;
mod batch;
mod capabilities;
mod catch_up_actor;
mod frames;
#[cfg(test)]
mod frames_test;
mod hearing;
mod late;
mod listening;
mod notices;
mod outgoing;
mod poll;
mod poll_answer;
mod queue_metrics;
mod requests;
mod requests_actor;
mod scratch;
mod send_queue;
#[cfg(test)]
mod send_queue_test;
mod session;
mod session_actor;
mod session_inbox;
mod sse;
mod stream_connection;
mod waiting;
mod ws;

pub use about::About;
pub use assembly::Message;
pub use batch::{Batcher, Batching};
pub use capabilities::{Answer, Capabilities};
pub use frames::Frames;
pub use hearing::Hearing;
pub use listening::Listening;
pub use outgoing::{Kind, Outgoing, Pushed};
pub use poll::LongPoll;
pub use poll_answer::PollAnswer;
pub use queue_metrics::QueueMetrics;
pub use requests::{Ack, Auth, BadRequest, Command, Op, Refused, Request, reply, too_many_topics};
pub use send_queue::{QueueLimits, SendQueue};
pub use session::{Grant, Session, Step, audience_of, is_shown};
pub use session_actor::{SessionActor, SessionContext, SessionRequest};
pub use session_inbox::{Doorkeeper, SessionInbox, Slot};
pub use sse::SseBody;
pub use stream_connection::StreamConnection;
pub use ws::{Inbox, WsConnection, WsLimits};
