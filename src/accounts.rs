//! Accounts of users, and snapshots of them.
//!
//! [`Accounts`] carries commands out: state and outbox row in one transaction. What follows from a change later is an
//! event of [`events`], recorded as a job in that same transaction; following it up is one transaction, too, with the
//! job's end in it, so that it has its effect once, whoever is killed in the middle.

mod account;
pub mod events;
mod following;
mod service;

pub use account::{AccountChanges, NewAccount};
pub use following::Followers;
pub use service::{Account, Accounts, Page, Snapshot};

/// What the jobs of accounts count against.
pub const CHANNEL: &str = "snapshots";
