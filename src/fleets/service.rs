use serde_json::value::RawValue;

use super::fleet::{Before, Decision, GradeBounds, NewReading, decide};
use crate::clock::Clock;
use crate::domain::{Class, Decimal, EntityId, Refusal, TenantId, Timestamp, Topic, TopicKind};
use crate::log::EventLog;
use crate::storage::{Attempt, CommandKey, Commands, Database, FleetRow, OutboxRow, ReadingRow, StoreError};
use crate::telemetry::{crash_point, current_origin};
use crate::wire::number;

/// Readings reported at once, at most.
pub const MAX_BATCH: usize = 1000;

/// An accepted update: the answer to its sender and the data of `ei_updated`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Updated {
    /// Whose.
    pub fleet_id: String,
    /// The intensity before, gCO2e per tonne-km; null on a first reading.
    #[schema(value_type = Option<f64>)]
    pub old_ei: Option<Box<RawValue>>,
    /// The intensity now, gCO2e per tonne-km.
    #[schema(value_type = f64)]
    pub new_ei: Box<RawValue>,
    /// `A` (best) to `E`.
    pub ei_grade: String,
    /// When it was accepted, RFC 3339.
    pub timestamp: String,
    /// Counts the fleet's updates.
    pub version: i64,
}

/// What became of one reading.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum EiUpdate {
    /// Accepted.
    Updated(Updated),
    /// Measured before the stored one.
    Stale {
        /// When the stored one was measured, RFC 3339.
        stored_at: String,
    },
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Commands and queries on fleets.
#[derive(Clone)]
pub struct Fleets {
    database: Database,
    log: EventLog,
    clock: Clock,
    bounds: GradeBounds,
    history: i64,
    commands: Commands,
}

impl Fleets {
    /// `history`: readings kept per fleet.
    pub fn new(
        database: Database,
        log: EventLog,
        bounds: GradeBounds,
        history: usize,
        commands: Commands,
    ) -> Self {
        let clock = log.clock();
        let history = i64::try_from(history).unwrap_or(i64::MAX);
        Fleets { database, log, clock, bounds, history, commands }
    }

    /// Takes readings in, in order and in one transaction; answers each by itself.
    ///
    /// May be abandoned at any await: what was begun is carried out all the same.
    pub async fn update_ei(
        &self,
        tenant: &TenantId,
        readings: Vec<NewReading>,
        key: Option<CommandKey>,
    ) -> Result<Vec<EiUpdate>, Refusal> {
        self.commands.once(tenant, key, |attempt| self.transaction(tenant, &readings, attempt)).await
    }

    async fn transaction(
        &self,
        tenant: &TenantId,
        readings: &[NewReading],
        attempt: Attempt,
    ) -> Result<Result<Vec<EiUpdate>, Refusal>, StoreError> {
        let (own, tenant, readings) = (self.clone(), tenant.as_str().to_owned(), readings.to_vec());
        let origin = current_origin().map(|origin| origin.to_string());
        self.database
            .run(move |db| async move {
                let now = own.clock.now();
                let outcome = crate::command!(db, attempt, |conn, q| {
                    let mut updates = Vec::with_capacity(readings.len());
                    for reading in &readings {
                        let stored = q::fleets::find_locked(conn, &tenant, reading.fleet_id.as_str()).await?;
                        let before = stored.as_ref().map(before);
                        match decide(before, reading, &own.bounds, now) {
                            Decision::Stale { stored_at } => {
                                updates.push(EiUpdate::Stale { stored_at: stored_at.to_string() });
                            }
                            accepted => {
                                let rows = Rows::new(&tenant, reading, accepted, now, origin.clone());
                                match stored {
                                    Some(_) => q::fleets::update(conn, &rows.fleet).await?,
                                    None => q::fleets::insert(conn, &rows.fleet).await?,
                                }
                                q::fleets::add_reading(conn, &rows.reading, own.history).await?;
                                q::outbox::insert(conn, &rows.outbox).await?;
                                updates.push(EiUpdate::Updated(rows.updated));
                            }
                        }
                    }
                    Ok(Ok(updates))
                });
                crash_point("fleets.after_commit");
                own.log.wake_relay();
                outcome
            })
            .await
    }

    /// A fleet.
    pub async fn find(&self, tenant: &TenantId, fleet_id: &EntityId) -> Result<Option<FleetRow>, Refusal> {
        let (tenant, fleet_id) = (tenant.as_str().to_owned(), fleet_id.as_str().to_owned());
        let found = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(q::fleets::find(conn, &tenant, &fleet_id).await?))
            })
            .await?;
        Ok(found)
    }

    /// Fleets by id, after the one named `after`.
    pub async fn page(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: usize,
    ) -> Result<Page<FleetRow>, Refusal> {
        let (tenant, after, wanted) = (tenant.as_str().to_owned(), after.to_owned(), limit as i64 + 1);
        let mut rows: Vec<FleetRow> = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(q::fleets::page(conn, &tenant, &after, wanted).await?))
            })
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.fleet_id.clone());
        Ok(Page { rows, next })
    }

    /// Readings, newest first, before the version `before`.
    pub async fn history(
        &self,
        tenant: &TenantId,
        fleet_id: &EntityId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ReadingRow>, Refusal> {
        let (tenant, fleet_id) = (tenant.as_str().to_owned(), fleet_id.as_str().to_owned());
        let (before, wanted) = (before.unwrap_or(i64::MAX), limit as i64 + 1);
        let mut rows: Vec<ReadingRow> = self
            .database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(
                    q::fleets::readings(conn, &tenant, &fleet_id, before, wanted).await?
                ))
            })
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.version.to_string());
        Ok(Page { rows, next })
    }
}

fn before(row: &FleetRow) -> Before {
    Before {
        ei: Decimal::from_millionths(row.ei),
        measured_at: Timestamp::from_micros(row.measured_us),
        version: row.version,
    }
}

/// What an accepted reading writes.
struct Rows {
    fleet: FleetRow,
    reading: ReadingRow,
    outbox: OutboxRow,
    updated: Updated,
}

impl Rows {
    fn new(
        tenant: &str,
        new: &NewReading,
        decision: Decision,
        now: Timestamp,
        origin: Option<String>,
    ) -> Self {
        let Decision::Accept { old_ei, grade, measured_at, version } = decision else {
            unreachable!("stale readings write nothing");
        };
        let fleet_id = new.fleet_id.as_str().to_owned();
        let updated = Updated {
            fleet_id: fleet_id.clone(),
            old_ei: old_ei.map(number),
            new_ei: number(new.ei),
            ei_grade: grade.as_str().to_owned(),
            timestamp: now.to_string(),
            version,
        };
        let fleet = FleetRow {
            tenant: tenant.to_owned(),
            fleet_id: fleet_id.clone(),
            ei: new.ei.millionths(),
            grade: grade.as_str().to_owned(),
            measured_us: measured_at.micros(),
            updated_us: now.micros(),
            version,
        };
        let reading = ReadingRow {
            tenant: tenant.to_owned(),
            fleet_id: fleet_id.clone(),
            version,
            ei: new.ei.millionths(),
            grade: grade.as_str().to_owned(),
            measured_us: measured_at.micros(),
        };
        let outbox = OutboxRow {
            id: 0,
            tenant: tenant.to_owned(),
            topic: Topic::of(TopicKind::Fleet, &new.fleet_id).as_str().to_owned(),
            name: "ei_updated".to_owned(),
            class: Class::Latest.as_str().to_owned(),
            key: Some(fleet_id),
            version: Some(version),
            data: serde_json::to_string(&updated).expect("an update is plain data"),
            public: None,
            created_us: now.micros(),
            origin,
        };
        Rows { fleet, reading, outbox, updated }
    }
}
