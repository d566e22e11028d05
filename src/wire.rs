//! What goes over a wire: events encoded once per format, control frames, close codes.
//!
//! Pure functions and values; who sends them is the business of `sessions` and `rooms`.

mod close;
mod control;
mod event;
mod json;
mod sse;
pub mod websocket;

pub use close::CloseCode;
pub use control::{Dialect, Framing, Ready, RecoveryFailure};
pub use event::{Audience, Content, Event, EventParts, Format, RANKING_UPDATED};
pub use json::{compact, is_deeper_than, number, parse};
pub use sse::{SseDecoder, SseMessage, retry_frame};
