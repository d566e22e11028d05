use super::rows::{NewOrder, NewReport, Taken, insertion};
use super::view::{Changed, Order, OrderReport};
use crate::clock::Clock;
use crate::domain::{EntityId, Refusal, RefusalKind, TenantId};
use crate::identity::{User, rights};
use crate::log::EventLog;
use crate::storage::{
    Attempt, CommandKey, Commands, Database, OrderReportRow, OrderRow, OutboxRow, StoreError,
};
use crate::telemetry::{crash_point, current_origin};

/// Reports kept per order; the oldest go first.
pub const MOST_REPORTS: i64 = 10_000;

/// On whose word an order's status is set.
#[derive(Clone, Debug)]
pub enum Reporter {
    /// Of somebody who may report of any order.
    Any,
    /// Of this user, if it carries the order.
    Carrier(User),
}

/// Somebody who may be party of orders.
#[derive(Clone, Debug)]
pub struct Party {
    shipper: String,
    carriers: Vec<String>,
}

impl Party {
    /// A user as a shipper, and as whatever carrier it is or speaks for.
    pub fn of(user: &User) -> Self {
        let shipper = user.sub.as_str().to_owned();
        let carriers = user.carriers.iter().chain([&shipper]).cloned().collect();
        Party { shipper, carriers }
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Commands and queries on orders.
#[derive(Clone)]
pub struct Orders {
    database: Database,
    log: EventLog,
    clock: Clock,
    commands: Commands,
}

impl Orders {
    /// On this database, told of by this log.
    pub fn new(database: Database, log: EventLog, commands: Commands) -> Self {
        let clock = log.clock();
        Orders { database, log, clock, commands }
    }

    /// Creates an order, and tells every node who may hear of it before anything else is told of it.
    ///
    /// May be abandoned at any await: what was begun is carried out all the same.
    pub async fn create(
        &self,
        tenant: &TenantId,
        new: NewOrder,
        key: Option<CommandKey>,
    ) -> Result<Order, Refusal> {
        self.commands.once(tenant, key, |attempt| self.creation(tenant, &new, attempt)).await
    }

    async fn creation(
        &self,
        tenant: &TenantId,
        new: &NewOrder,
        attempt: Attempt,
    ) -> Result<Result<Order, Refusal>, StoreError> {
        let own = self.clone();
        let rows = insertion(tenant, new, self.clock.now());
        self.database
            .run(move |db| async move {
                let mut waiting = Vec::new();
                let outcome = crate::command!(db, attempt, |conn, q| {
                    let (tenant, id) = (&rows.order.tenant, &rows.order.order_id);
                    if q::orders::find(conn, tenant, id).await?.is_some() {
                        return Ok(Err(exists(id)));
                    }
                    q::orders::insert(conn, &rows.order).await?;
                    for row in &rows.created {
                        let id = q::outbox::insert(conn, row).await?;
                        waiting.push(OutboxRow { id, ..row.clone() });
                    }
                    Ok(Ok(Order::try_from(rows.order.clone())?))
                })?;
                for row in waiting {
                    // what is published once this is answered comes after it, at whichever node
                    own.log.hasten(row).await;
                }
                own.log.wake_relay();
                Ok(outcome)
            })
            .await
    }

    /// Takes a report of an order in.
    ///
    /// May be abandoned at any await: what was begun is carried out all the same.
    pub async fn report(
        &self,
        tenant: &TenantId,
        order_id: &EntityId,
        (reporter, report): (Reporter, NewReport),
        key: Option<CommandKey>,
    ) -> Result<Changed, Refusal> {
        let told = (&reporter, &report);
        self.commands.once(tenant, key, |attempt| self.reporting(tenant, order_id, told, attempt)).await
    }

    async fn reporting(
        &self,
        tenant: &TenantId,
        order_id: &EntityId,
        (reporter, report): (&Reporter, &NewReport),
        attempt: Attempt,
    ) -> Result<Result<Changed, Refusal>, StoreError> {
        let (own, tenant, order_id) = (self.clone(), tenant.as_str().to_owned(), order_id.clone());
        let (reporter, report) = (reporter.clone(), report.clone());
        let origin = current_origin().map(|origin| origin.to_string());
        self.database
            .run(move |db| async move {
                let outcome = crate::command!(db, attempt, |conn, q| {
                    let stored = q::orders::find_locked(conn, &tenant, order_id.as_str()).await?;
                    let stored = match permitted(stored, &reporter) {
                        Ok(stored) => stored,
                        Err(refusal) => return Ok(Err(refusal)),
                    };
                    // after the lock: reports of one order are received in the order of their numbers
                    let now = own.clock.now();
                    match Taken::of(stored, &order_id, &report, now)? {
                        Err(refusal) => Ok(Err(refusal)),
                        Ok(taken) => {
                            q::orders::update(conn, &taken.order).await?;
                            q::orders::add_report(conn, &taken.report, MOST_REPORTS).await?;
                            if let Some(event) = taken.event {
                                let row = OutboxRow { origin: origin.clone(), ..event };
                                q::outbox::insert(conn, &row).await?;
                            }
                            Ok(Ok(taken.changed))
                        }
                    }
                });
                crash_point("orders.after_commit");
                own.log.wake_relay();
                outcome
            })
            .await
    }

    /// An order, and its reports, newest first, before the one with the number `before`.
    pub async fn find(
        &self,
        tenant: &TenantId,
        order_id: &EntityId,
        (before, limit): (Option<i64>, usize),
    ) -> Result<Option<(Order, Page<OrderReport>)>, Refusal> {
        let (tenant, order_id) = (tenant.as_str().to_owned(), order_id.as_str().to_owned());
        let (before, wanted) = (before.unwrap_or(i64::MAX), limit as i64 + 1);
        let found: Option<(OrderRow, Vec<OrderReportRow>)> = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| {
                    let Some(order) = q::orders::find(conn, &tenant, &order_id).await? else {
                        return Ok(None);
                    };
                    let reports = q::orders::reports(conn, &tenant, &order_id, before, wanted).await?;
                    Ok(Some((order, reports)))
                })
            })
            .await?;
        let Some((order, reports)) = found else { return Ok(None) };
        let page = Page::of(reports, limit, |row| row.number.to_string())?;
        Ok(Some((order.try_into()?, page)))
    }

    /// Orders by id, after the one named `after`; of those that somebody is party of, or of all.
    pub async fn page(
        &self,
        tenant: &TenantId,
        party: Option<Party>,
        (after, limit): (&str, usize),
    ) -> Result<Page<Order>, Refusal> {
        let (tenant, after, wanted) = (tenant.as_str().to_owned(), after.to_owned(), limit as i64 + 1);
        let rows: Vec<OrderRow> = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(match &party {
                    None => q::orders::page(conn, &tenant, &after, wanted).await?,
                    Some(Party { shipper, carriers }) => {
                        q::orders::page_of(conn, &tenant, (shipper, carriers), &after, wanted).await?
                    }
                }))
            })
            .await?;
        Ok(Page::of(rows, limit, |row| row.order_id.clone())?)
    }
}

impl<T> Page<T> {
    /// Rows of which one more was asked for than fit.
    fn of<R: TryInto<T, Error = StoreError>>(
        mut rows: Vec<R>,
        limit: usize,
        mark: impl Fn(&R) -> String,
    ) -> Result<Self, StoreError> {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(mark);
        let rows = rows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Page { rows, next })
    }
}

/// The order, if there is one and it is for the reporter to report of it.
fn permitted(stored: Option<OrderRow>, reporter: &Reporter) -> Result<OrderRow, Refusal> {
    let carries = |row: &OrderRow, user: &User| row.carrier.as_ref().is_some_and(|own| user.is_carrier(own));
    match (stored, reporter) {
        (Some(row), Reporter::Any) => Ok(row),
        (None, Reporter::Any) => {
            Err(Refusal::new(RefusalKind::NotFound, "no_such_order", "there is no order of this id"))
        }
        (Some(row), Reporter::Carrier(user)) if carries(&row, user) => Ok(row),
        // whether there is one is not for others to know
        (_, Reporter::Carrier(_)) => {
            Err(Refusal::forbidden(rights::FORBIDDEN, "it is not an order that you carry, and needs a role"))
        }
    }
}

fn exists(order_id: &str) -> Refusal {
    Refusal::new(RefusalKind::Conflict, "exists", format!("there is an order {order_id} already"))
}
