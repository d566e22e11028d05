//! Declared topics: `topic:` topics that are for their members only.
//!
//! [`Topics`] keeps them in the database, with a generation that every node reads, and in memory as a
//! [`Membership`]; [`Topics::grant`] is what subscriptions are judged by, the table of rights included.

mod grants;
mod membership;
mod service;

pub use grants::judge;
pub use membership::{Membership, Standing};
pub use service::{Declared, Topics};
