//! Who may hear what: the table of rights, the members of declared topics, and what entities say.
//!
//! [`Topics`] keeps declared topics in the database, with a generation that every node reads, and in memory as a
//! [`Membership`]. What decides about an entity's topics ([`Facts`]: an order's parties, a bid's owner and
//! visibility) never changes once it is there; each node keeps some of it in memory, reads it before a
//! subscription is judged, and is told by the log of what is new before anything else about it.
//! [`Topics::grant`] is what subscriptions are judged by.

mod created;
mod entities;
mod grants;
mod known;
mod look;
mod membership;
mod service;

pub use created::created_rows;
pub use entities::{Facts, Knowledge, UNAVAILABLE, audience};
pub use grants::judge;
pub use known::{Entities, MOST_ENTITIES};
pub use membership::{Membership, Standing};
pub use service::{Declared, Topics};
