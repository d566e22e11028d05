//! Value types of the product: parsed once at the edge, trusted afterwards.
//!
//! Nothing here is asynchronous, knows a wire format or a database.

mod class;
mod decimal;
mod ids;
mod origin;
mod position;
mod refusal;
mod timestamp;
mod topic;
mod visibility;

pub use class::Class;
pub use decimal::{Decimal, DecimalError};
pub use ids::{EntityId, EventName, EventNameError, IdError, TenantId, UserSub};
pub use origin::{Origin, Trace};
pub use position::{Cursor, Epoch, Position, PositionError};
pub use refusal::{Refusal, RefusalKind};
pub use timestamp::Timestamp;
pub use topic::{Selector, Topic, TopicError, TopicKind};
pub use visibility::Visibility;
