//! Who is asking, and what they may do: API keys, users' tokens, tickets, and the one table of rights.
//!
//! [`Authenticator`] judges what the head of a request shows ([`Presented`]), for HTTP and for upgrades
//! alike; [`Tickets`] stand in for headers where a client cannot send any. What comes out is a
//! [`Principal`], and [`rights`] says what that may do. [`Revocations`] is the one feed of what is no longer
//! good; sessions end by it.

mod authenticator;
mod claims;
mod compat;
mod jwks;
mod keys;
mod principal;
mod revocations;
mod revoked;
pub mod rights;
mod scope;
mod tickets;
mod token;
mod token_keys;
mod tokens;

pub use authenticator::{Authenticator, Presented};
pub use compat::Compat;
pub use jwks::Jwks;
pub use keys::{ImportError, KeyRing, NewKey, create_key, hash_hex, import_key, new_secret};
pub use principal::{Credentials, Principal, User};
pub use revocations::Revocations;
pub use revoked::Revoked;
pub use scope::{Scope, Scopes};
pub use tickets::{IssuedTicket, TicketRequest, Tickets, is_ticket};
pub use tokens::{Signer, Tokens, installation_secret};
