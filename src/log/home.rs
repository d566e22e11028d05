use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::append::Source;
use super::load::Load;
use super::{AppendRequest, Appended, LogError, NewEvent, PageLimit, TenantLog};
use crate::domain::{Cursor, Epoch, Position, Selector, TenantId};
use crate::storage::OutboxRow;
use crate::wire::Event;

/// Part of the past, as it is stored.
#[derive(Debug)]
pub struct StoredPage {
    /// The events of the selected topics, in order.
    pub events: Vec<Event>,
    /// Everything up to this number has been looked at.
    pub scanned_to: u64,
}

/// What nodes tell each other beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeNotice {
    /// A ticket has a newer connection.
    TicketReplaced {
        /// The ticket's id.
        ticket_id: Arc<str>,
        /// The connection's number: those with lower ones are over.
        newer: u64,
    },
    /// Outbox rows were committed.
    OutboxFilled,
}

/// Where the log is kept: what numbers events, keeps them, and shows them to this process.
///
/// Whatever it numbers comes to the tenants' logs of this process in order and without holes.
pub trait LogHome: Send + Sync {
    /// A tenant's log, made on first use.
    fn open<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>>;

    /// The same, once everything up to the cursor is here, or it is known that it never will be.
    fn open_at<'a>(
        &'a self,
        tenant: &'a TenantId,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>>;

    /// Brings the log's floors up to date.
    fn learn_floors<'a>(&'a self, log: &'a Arc<TenantLog>) -> BoxFuture<'a, Result<(), LogError>>;

    /// Appends; the outcome of each group, and the run of the log that their numbers belong to.
    ///
    /// What was handed over is carried out even where nobody waits for it any more.
    fn append(
        &self,
        request: AppendRequest,
        source: Source,
        load: Load,
    ) -> BoxFuture<'_, Result<(Epoch, Vec<Appended>), LogError>>;

    /// Publishes a committed outbox row before whatever is appended after this returns, if it can be done; else
    /// it waits for its turn.
    fn hasten(&self, row: OutboxRow, load: Load) -> BoxFuture<'_, ()>;

    /// Sends an event to those who listen at this moment.
    fn volatile(
        &self,
        tenant: TenantId,
        event: NewEvent,
        source: Source,
        load: Load,
    ) -> BoxFuture<'_, Result<(), LogError>>;

    /// The events of the selected topics within `(after, up_to]`; the log's floors are afterwards at least
    /// what they were when this was read.
    fn read<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        selectors: &'a [Selector],
        span: (u64, u64),
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<StoredPage, LogError>>;

    /// Some of the newest events up to this number, in order, without a hole up to it; none when there are none.
    fn newest<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        up_to: u64,
    ) -> BoxFuture<'a, Result<Vec<Event>, LogError>>;

    /// The newest position of all that was ever acknowledged.
    fn top<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Position, LogError>>;

    /// Whether other nodes write to it, too.
    fn is_shared(&self) -> bool;

    /// Tells the other nodes something that is no event; who is away at this moment never hears of it.
    fn announce(&self, notice: NodeNotice);

    /// Whether it takes requests at this moment.
    fn is_running(&self) -> bool;

    /// Appends what waits, outbox rows included where it is this process's work, and ends.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
