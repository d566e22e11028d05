use std::sync::Arc;

use tokio::sync::Notify;

use super::events::status_changed;
use super::ranking::{Accepted, Ask, BidKey, Change, Rankings, Speaks};
use super::{About, AntiSniping, Bid, BidView, Criteria, Proposal, RankingView, Status, Viewer, Window};
use crate::clock::{Clock, random_u64};
use crate::domain::{Decimal, EntityId, Refusal, RefusalKind, TenantId, Timestamp, UserSub, Visibility};
use crate::identity::rights::FORBIDDEN;
use crate::log::EventLog;
use crate::orders::{NewOrder, insertion};
use crate::storage::{Attempt, BidRow, CommandKey, Commands, Database, OutboxRow, StoreError};
use crate::telemetry::{crash_point, current_origin};
use crate::topics::{Facts, created_rows};

/// A bid that somebody wants to create.
#[derive(Clone, Debug)]
pub struct NewBid {
    /// Its id.
    pub id: EntityId,
    /// What it is about.
    pub about: About,
    /// How proposals are compared.
    pub criteria: Criteria,
    /// Who may see them.
    pub visibility: Visibility,
    /// Proposals of a higher intensity are not ranked.
    pub max_ei: Option<Decimal>,
    /// When it opens by itself.
    pub opens_at: Option<Timestamp>,
    /// When it closes.
    pub closes_at: Option<Timestamp>,
    /// Whether late changes extend it.
    pub anti_sniping: Option<AntiSniping>,
}

/// A step in the life of a bid, by its owner's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Proposals may come.
    Open,
    /// No more changes.
    Close,
    /// It is called off.
    Cancel,
    /// A proposal wins.
    Award(String),
}

impl Step {
    fn status(&self) -> Status {
        match self {
            Step::Open => Status::Open,
            Step::Close => Status::Closed,
            Step::Cancel => Status::Cancelled,
            Step::Award(_) => Status::Awarded,
        }
    }
}

/// Commands and queries on bids.
#[derive(Clone)]
pub struct Bids {
    database: Database,
    log: EventLog,
    clock: Clock,
    commands: Commands,
    rankings: Rankings,
    timetable: Arc<Notify>,
}

impl Bids {
    /// Over these rankings.
    pub fn new(database: Database, log: EventLog, commands: Commands, rankings: Rankings) -> Self {
        let (clock, timetable) = (log.clock(), Arc::default());
        Bids { database, log, clock, commands, rankings, timetable }
    }

    /// The actors of bids.
    pub fn rankings(&self) -> &Rankings {
        &self.rankings
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn wake_relay(&self) {
        self.log.wake_relay();
    }

    /// This node has created or changed a bid that opens or closes by itself.
    pub(super) async fn timetable_changed(&self) {
        self.timetable.notified().await;
    }

    /// Creates a bid, as a draft.
    ///
    /// May be abandoned at any await, like all commands here: what was begun is carried out all the same.
    pub async fn create(
        &self,
        tenant: &TenantId,
        viewer: &Viewer,
        new: NewBid,
        key: Option<CommandKey>,
    ) -> Result<BidView, Refusal> {
        let created = self.commands.once(tenant, key, |attempt| self.insert(tenant, viewer, &new, attempt));
        let created = created.await;
        self.timetable.notify_one();
        created
    }

    async fn insert(
        &self,
        tenant: &TenantId,
        viewer: &Viewer,
        new: &NewBid,
        attempt: Attempt,
    ) -> Result<Result<BidView, Refusal>, StoreError> {
        let (own, tenant, viewer, new) = (self.clone(), tenant.clone(), viewer.clone(), new.clone());
        let work = move |db: Database| async move {
            let (own_us, mut waiting) = (own.clock.steady().micros(), Vec::new());
            let outcome = crate::command!(db, attempt, |conn, q| {
                let now = Timestamp::from_micros(q::time::now_us(conn, own_us).await?);
                let id = new.id.clone();
                if q::bids::find(conn, tenant.as_str(), id.as_str()).await?.is_some() {
                    let detail = format!("there is a bid {id} already");
                    return Ok(Err(Refusal::new(RefusalKind::Conflict, "exists", detail)));
                }
                if new.closes_at.is_some_and(|end| end <= now) {
                    return Ok(Err(Refusal::invalid("closes_at", "must be in the future")));
                }
                let bid = draft(new, viewer.sub.clone(), now);
                q::bids::insert(conn, &bid.row(tenant.as_str())).await?;
                let facts = Facts::Bid { owner: bid.owner.clone(), visibility: bid.visibility };
                for row in created_rows(&tenant, &id, &facts, now) {
                    let id = q::outbox::insert(conn, &row).await?;
                    waiting.push(OutboxRow { id, ..row });
                }
                Ok(Ok(BidView::new(&bid, &viewer)))
            })?;
            crash_point("bids.after_commit");
            own.announce(waiting).await;
            Ok(outcome)
        };
        self.database.run(work).await
    }

    /// Takes a bid a step further; only its owner may, and whoever runs all bids.
    pub async fn step(
        &self,
        tenant: &TenantId,
        viewer: &Viewer,
        bid_id: &EntityId,
        step: Step,
        key: Option<CommandKey>,
    ) -> Result<BidView, Refusal> {
        let stepped = self.commands.once(tenant, key, |attempt| {
            self.take_step(tenant, viewer.clone(), bid_id, step.clone(), attempt)
        });
        let stepped = stepped.await;
        self.timetable.notify_one();
        stepped
    }

    async fn take_step(
        &self,
        tenant: &TenantId,
        viewer: Viewer,
        bid_id: &EntityId,
        step: Step,
        attempt: Attempt,
    ) -> Result<Result<BidView, Refusal>, StoreError> {
        let (own, tenant, bid_id) = (self.clone(), tenant.clone(), bid_id.as_str().to_owned());
        let origin = current_origin().map(|origin| origin.to_string());
        let work = move |db: Database| async move {
            let (own_us, mut waiting) = (own.clock.steady().micros(), Vec::new());
            let outcome = crate::command!(db, attempt, |conn, q| {
                let name = tenant.as_str();
                let Some(row) = q::bids::find_locked(conn, name, &bid_id).await? else {
                    return Ok(Err(no_such_bid()));
                };
                let mut bid = Bid::read(row)?;
                let now = Timestamp::from_micros(q::time::now_us(conn, own_us).await?);
                let proposal = match &step {
                    Step::Award(id) => q::bids::proposal(conn, name, &bid_id, id).await?,
                    _ => None,
                };
                let old = bid.status;
                let order = match advance(&mut bid, &viewer, &step, proposal, now) {
                    Ok(winner) => winner.map(|winner| insertion(&tenant, &order(&bid, &winner), now)),
                    Err(refusal) => return Ok(Err(refusal)),
                };
                if let Some(order) = order {
                    bid.order_id = Some(order.order.order_id.clone());
                    q::orders::insert(conn, &order.order).await?;
                    for row in order.created {
                        let id = q::outbox::insert(conn, &row).await?;
                        waiting.push(OutboxRow { id, ..row });
                    }
                }
                q::bids::update(conn, &bid.row(name)).await?;
                q::outbox::insert(conn, &status_changed(name, &bid, old, None, now, origin)).await?;
                Ok(Ok(BidView::new(&bid, &viewer)))
            })?;
            crash_point("bids.after_commit");
            own.announce(waiting).await;
            Ok(outcome)
        };
        self.database.run(work).await
    }

    /// Has the nodes told of what is new before anything that is published after the answer.
    async fn announce(&self, created: Vec<OutboxRow>) {
        for row in created {
            self.log.hasten(row).await;
        }
        self.log.wake_relay();
    }

    /// Has a proposal submitted, revised or withdrawn, in its bid's turn.
    pub async fn change(
        &self,
        tenant: &TenantId,
        bid_id: &EntityId,
        (ask, speaks): (Ask, Speaks),
        key: Option<CommandKey>,
    ) -> Result<Accepted, Refusal> {
        let bid = self.key(tenant, bid_id).await?;
        let origin = current_origin().map(|origin| origin.to_string());
        let change =
            |attempt| Change { ask: ask.clone(), speaks: speaks.clone(), attempt, origin: origin.clone() };
        self.commands.once(tenant, key, |attempt| self.rankings.change(&bid, change(attempt))).await
    }

    /// A part of a bid's ranking as it is stored at this moment.
    pub async fn ranking(
        &self,
        tenant: &TenantId,
        viewer: Viewer,
        bid_id: &EntityId,
        window: Window,
    ) -> Result<RankingView, Refusal> {
        // by its row alone: whoever may not see it has nothing loaded
        RankingView::require_seen(&Bid::read(self.stored(tenant, bid_id).await?)?, &viewer)?;
        let bid = BidKey { tenant: tenant.clone(), bid_id: bid_id.as_str().into() };
        let look = move |bid: &Bid, ranking: &_| RankingView::new(bid, ranking, &viewer, &window);
        self.rankings.look(&bid, look).await?.ok_or_else(no_such_bid)?
    }

    /// What a bid's actor is found by: none is made for one that does not exist.
    async fn key(&self, tenant: &TenantId, bid_id: &EntityId) -> Result<BidKey, Refusal> {
        let key = BidKey { tenant: tenant.clone(), bid_id: bid_id.as_str().into() };
        if !self.rankings.knows(&key) {
            self.stored(tenant, bid_id).await?;
        }
        Ok(key)
    }

    async fn stored(&self, tenant: &TenantId, bid_id: &EntityId) -> Result<BidRow, Refusal> {
        let (tenant, bid_id) = (tenant.as_str().to_owned(), bid_id.as_str().to_owned());
        let find = move |db: Database| async move {
            crate::read!(db, |conn, q| Ok(q::bids::find(conn, &tenant, &bid_id).await?))
        };
        self.database.run(find).await?.ok_or_else(no_such_bid)
    }

    /// A bid.
    pub async fn find(
        &self,
        tenant: &TenantId,
        viewer: &Viewer,
        bid_id: &EntityId,
    ) -> Result<BidView, Refusal> {
        let row = self.stored(tenant, bid_id).await?;
        Ok(BidView::new(&Bid::read(row)?, viewer))
    }

    /// Bids by id, after the one named `after`; and the id after which the next page begins.
    pub async fn page(
        &self,
        tenant: &TenantId,
        viewer: &Viewer,
        (status, after): (Option<Status>, &str),
        limit: usize,
    ) -> Result<(Vec<BidView>, Option<String>), Refusal> {
        let (tenant, after, wanted) = (tenant.as_str().to_owned(), after.to_owned(), limit as i64 + 1);
        let read = move |db: Database| async move {
            crate::read!(db, |conn, q| {
                let status = status.map(Status::as_str);
                Ok(q::bids::page(conn, &tenant, status, &after, wanted).await?)
            })
        };
        let mut rows = self.database.run(read).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.bid_id.clone());
        let bids: Result<Vec<_>, StoreError> =
            rows.into_iter().map(|row| Ok(BidView::new(&Bid::read(row)?, viewer))).collect();
        Ok((bids?, next))
    }
}

fn draft(new: NewBid, owner: Option<String>, now: Timestamp) -> Bid {
    Bid {
        id: new.id.as_str().to_owned(),
        owner,
        about: new.about,
        criteria: new.criteria,
        visibility: new.visibility,
        max_ei: new.max_ei,
        status: Status::Draft,
        opens_at: new.opens_at,
        closes_at: new.closes_at,
        anti_sniping: new.anti_sniping,
        secret: format!("{:016x}{:016x}", random_u64(), random_u64()),
        awarded: None,
        order_id: None,
        version: 1,
        ranking_version: 0,
        created_at: now,
        updated_at: now,
    }
}

/// The order that follows from an award.
fn order(bid: &Bid, winner: &Proposal) -> NewOrder {
    let order_id = uuid::Uuid::now_v7().to_string();
    // of a bid that a service has created nobody is the shipper: no user is called like the order
    let shipper = bid.owner.as_ref().unwrap_or(&order_id);
    NewOrder {
        shipper: UserSub::parse(shipper).expect("it was one when the bid was created"),
        order_id: EntityId::parse(&order_id).expect("a UUID is an id"),
        carrier: Some(winner.carrier.to_string()),
        origin: Some(bid.about.origin.get().to_owned()),
        destination: Some(bid.about.destination.get().to_owned()),
        cargo: Some(bid.about.cargo.get().to_owned()),
        bid_id: EntityId::parse(&bid.id).ok(),
    }
}

/// Takes the step, if the bid's life, its owner and the time allow it; the proposal that wins by it.
fn advance(
    bid: &mut Bid,
    viewer: &Viewer,
    step: &Step,
    proposal: Option<crate::storage::ProposalRow>,
    now: Timestamp,
) -> Result<Option<Proposal>, Refusal> {
    if !viewer.owns(bid) {
        return Err(Refusal::forbidden(
            FORBIDDEN,
            "only the bid's owner, scope manage, and roles manager and admin may do this",
        ));
    }
    let conflict = |code, detail: String| Err(Refusal::new(RefusalKind::Conflict, code, detail));
    let mut winner = None;
    let next = step.status();
    bid.status.require(next)?;
    if next == Status::Open && bid.closes_at.is_some_and(|end| end <= now) {
        return conflict("time_is_over", "closes_at of the bid is over".to_owned());
    }
    if let Step::Award(id) = step {
        let Some(row) = proposal else {
            return Err(super::ranking::no_such_proposal());
        };
        let own = Proposal::read(row);
        if own.withdrawn {
            return conflict("withdrawn", format!("the proposal {id} was withdrawn"));
        }
        if let Err(reason) = super::appraise(&own.terms, &bid.criteria, bid.max_ei) {
            return conflict(
                "disqualified",
                format!("the proposal {id} is disqualified: {}", reason.as_str()),
            );
        }
        bid.awarded = Some(id.clone());
        winner = Some(own);
    }
    bid.status = next;
    bid.version += 1;
    bid.updated_at = now;
    Ok(winner)
}

/// The answer where there is no such bid.
pub fn no_such_bid() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_bid", "there is no such bid")
}
