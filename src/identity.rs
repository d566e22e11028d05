//! Who is asking, and what they may do: API keys, tickets, and the one table of rights.

mod keys;
mod principal;
pub mod rights;
mod scope;
mod tickets;

pub use keys::{KeyRing, NewKey, create_key, hash_hex, new_secret};
pub use principal::{Principal, User};
pub use scope::{Scope, Scopes};
pub use tickets::{IssuedTicket, TicketRequest, Tickets};
