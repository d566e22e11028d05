//! Bids for freight: their life, their proposals, and the exact order of these.
//!
//! [`Bids`] carries commands out; what becomes of a proposal is decided in its bid's turn ([`ranking`]), one actor
//! a bid. What a viewer may not see is left out before anything is published or answered ([`Viewer`], [`Frames`]).

mod bid;
pub mod copies;
mod criteria;
mod events;
mod frame;
#[cfg(test)]
mod frame_test;
mod proposal;
mod pseudonyms;
pub mod ranking;
mod rows;
mod service;
mod timetable;
mod views;

pub use bid::{AntiSniping, Status};
pub use criteria::{Criteria, Criterion, Direction, Field, Score, WrittenCriterion};
pub use events::{is_ranking, joined};
pub use frame::{Frame, Frames, Move, RankedProposal, Step};
pub use proposal::{Disqualified, Proposal, Terms, appraise};
pub use pseudonyms::{Pseudonyms, Unveiled};
pub use rows::{About, Bid};
pub use service::{Bids, NewBid, Step as BidStep, no_such_bid};
pub use views::{BidView, RankingView, Viewer, Window, WrittenAntiSniping};
