use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::events::{About, Happened, Ledger, Recorded, kind};
use crate::domain::{TenantId, UserSub};
use crate::jobs::{Completion, Failure, Handler, JobRow, Kind};
use crate::log::EventLog;
use crate::storage::backends::{postgres, sqlite};
use crate::storage::{Database, StoreError};
use crate::telemetry::crash_point;

type Make = fn(Database, EventLog, i64) -> Arc<dyn Handler>;

/// The kinds of events that are followed up.
#[derive(Clone, Default)]
pub struct Followers(Vec<(&'static str, Make)>);

impl Followers {
    /// And this one.
    pub fn with<E: Happened>(mut self) -> Self {
        self.0.push((E::NAME, |database, log, snapshots_kept| {
            Arc::new(Following::<E> { database, log, snapshots_kept, event: PhantomData })
        }));
        self
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Who does their jobs; `snapshots_kept`: of one user.
    pub fn handlers(
        &self,
        database: &Database,
        log: &EventLog,
        snapshots_kept: i64,
    ) -> Vec<Arc<dyn Handler>> {
        self.0.iter().map(|(_, make)| make(database.clone(), log.clone(), snapshots_kept)).collect()
    }
}

/// Follows one kind of event up.
struct Following<E> {
    database: Database,
    log: EventLog,
    snapshots_kept: i64,
    event: PhantomData<fn() -> E>,
}

impl<E: Happened> Handler for Following<E> {
    fn kind(&self) -> Kind {
        kind::<E>()
    }

    fn run(&self, job: JobRow) -> BoxFuture<'static, Result<Completion, Failure>> {
        let (database, log, snapshots_kept) = (self.database.clone(), self.log.clone(), self.snapshots_kept);
        async move {
            let recorded: Recorded<E> =
                serde_json::from_str(&job.payload).map_err(|error| Failure::lasting(error.to_string()))?;
            let about = about(&job, &recorded, &log)?;
            let clock = log.clock();
            let completion = database
                .run(move |db| async move {
                    crate::write_tx!(db, |conn, q| {
                        // first the job: whoever is late waits here, and finds that it was done
                        if !q::jobs::finish(conn, &job, clock.steady().micros()).await? {
                            return Ok(Completion::Late);
                        }
                        let mut books = Books { conn: &mut *conn, snapshots_kept };
                        for row in recorded.event.follow(&about, &mut books).await? {
                            q::outbox::insert(conn, &row).await?;
                        }
                        crash_point("accounts.before_follow_commit");
                        Ok(Completion::Finished)
                    })
                })
                .await?;
            crash_point("accounts.after_follow_commit");
            log.wake_relay();
            Ok(completion)
        }
        .boxed()
    }
}

fn about<E>(job: &JobRow, recorded: &Recorded<E>, log: &EventLog) -> Result<About, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| Failure::lasting(error.to_string());
    Ok(About {
        tenant: TenantId::parse(&job.tenant).map_err(|error| unreadable(&error))?,
        user: UserSub::parse(&recorded.user).map_err(|error| unreadable(&error))?,
        server_id: job.server_id.clone(),
        job_id: job.job_id.clone(),
        now: log.clock().now(),
        origin: recorded.origin.clone(),
    })
}

/// A connection in the middle of a transaction.
struct Books<'a, C> {
    conn: &'a mut C,
    snapshots_kept: i64,
}

macro_rules! ledger {
    ($backend:ident) => {
        impl Ledger for Books<'_, $backend::Conn> {
            async fn take_snapshot(&mut self, about: &About) -> Result<usize, StoreError> {
                let owner = (about.tenant.as_str(), about.user.as_str());
                let now_us = about.now.micros();
                let count =
                    $backend::accounts::take_snapshot(self.conn, owner, &about.job_id, now_us).await?;
                $backend::accounts::forget_snapshots(self.conn, owner, self.snapshots_kept).await?;
                Ok(count)
            }
        }
    };
}

ledger!(sqlite);
ledger!(postgres);
