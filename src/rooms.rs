//! Rooms: which sessions of a worker thread hear which topics, and the fan-out to them.
//!
//! [`Registry`] is the plain logic; [`RoomRegistryActor`] is its shell, one per worker thread, with the
//! thread's single sweep timer. Sessions of the same thread reach it by a [`Rooms`] handle, without a
//! mailbox; other threads wake it by its port.

mod attach;
mod computed;
mod registry;
mod renewal;
mod room;
mod room_registry_actor;
mod tenant;
mod upkeep;
mod workers;

pub use attach::{
    Attach, Attached, Connection, ConnectionId, Hello, Joined, Notice, RegistryOptions, SessionHandle,
    Standing, Widened,
};
pub use registry::Registry;
pub use room_registry_actor::{ListConnections, Order, RoomRegistryActor, Rooms, WorkerMail};
pub use workers::{Workers, pace};
