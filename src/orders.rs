//! Orders: from their creation to their delivery, with what was reported on the way.
//!
//! [`decide`] is the rule; [`Orders`] carries it out: state, report and outbox row in one transaction. Another
//! capability creates an order within its own transaction by [`insertion`].

mod order;
mod rows;
mod service;
mod view;

pub use order::{Before, Decision, Report, Status, decide};
pub use rows::{Insertion, NewOrder, NewReport, NewTracking, insertion};
pub use service::{MOST_REPORTS, Orders, Page, Party, Reporter};
pub use view::{Changed, Order, OrderReport, TrackingEvent};
