//! Publishing by applications: what may be published where, and what it becomes in the log.
//!
//! [`prepare`] is the rule; [`Publisher`] carries it out.

mod publish;
mod publisher;

pub use publish::{MAX_BATCH, MAX_TOPICS, Publish, PublishLimits, prepare};
pub use publisher::{Published, Publisher};
