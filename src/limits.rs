//! Limits: who may connect, ask and publish how much, and who may not come at all.
//!
//! [`Limiter`] is what the edges ask; behind it stand plain token buckets in bounded memory, counts of open
//! connections that go down by themselves, and the block list. Limits are per node: a caller who is spread over
//! nodes by a load balancer gets them on each. Everything that is refused is counted with its reason.

mod address;
mod admission;
mod block_list;
mod blocks;
mod bucket;
mod buckets;
mod forwarded;
mod limiter;
mod rules;
mod slowdown;

pub use address::{caller_of, parse_network};
pub use admission::{Admission, Connections, MaxConnections};
pub use block_list::BlockList;
pub use blocks::Blocks;
pub use bucket::{Bucket, Rate};
pub use buckets::Buckets;
pub use forwarded::{ForwardedBy, client_address};
pub use limiter::{Attempt, Limiter, SlowAnswer};
pub use rules::Rules;
