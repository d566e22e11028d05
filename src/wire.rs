//! What goes over a wire: events encoded once per format, control frames, close codes.
//!
//! Pure functions and values; who sends them is the business of `sessions` and `rooms`.

mod close;
mod control;
mod event;
mod json;
mod sse;

pub use close::CloseCode;
pub use control::{Ready, RecoveryFailure};
pub use event::{Audience, Content, Event, EventParts, Format};
pub use json::compact;
pub use sse::{
    SseDecoder, SseMessage, close_frame, heartbeat_frame, position_frame, ready_frame, retry_frame,
};
