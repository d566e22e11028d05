//! Declared topics: `topic:` topics that are for their members only.
//!
//! [`Topics`] keeps them in the database, with a generation that every node reads, and in memory as a
//! [`Membership`]; [`Topics::grants`] is what subscriptions are judged by, the table of rights included.

mod grants;
mod membership;
mod service;

pub use grants::{Refused, judge};
pub use membership::{Membership, Standing};
pub use service::{Declared, Topics};
