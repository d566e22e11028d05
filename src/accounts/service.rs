use std::sync::Arc;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::events::{About, AccountCreated};
use super::{AccountChanges, NewAccount};
use crate::domain::{Decimal, Refusal, RefusalKind, TenantId, Timestamp, UserSub};
use crate::jobs::JobWake;
use crate::log::EventLog;
use crate::storage::{AccountRow, Attempt, CommandKey, Commands, Database, SnapshotRow, StoreError};
use crate::telemetry::{crash_point, current_origin};

/// An account.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Counts the tenant's accounts from 1.
    pub id: i64,
    /// What its owner calls it.
    pub name: String,
    /// What is on it.
    #[schema(value_type = f64)]
    pub balance: Box<RawValue>,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// What an account was like.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Names it.
    pub id: String,
    /// Which account, as in events.
    pub account_id: String,
    /// What its owner called it.
    pub name: String,
    /// What was on it.
    #[schema(value_type = f64)]
    pub balance: Box<RawValue>,
    /// When it was taken, RFC 3339.
    pub created_at: String,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// What `account.updated` says.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Updated {
    account_id: String,
    changes: Changed,
}

#[derive(serde::Serialize)]
struct Changed {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<Box<RawValue>>,
}

/// Commands and queries on accounts.
#[derive(Clone)]
pub struct Accounts {
    database: Database,
    log: EventLog,
    commands: Commands,
    server_id: Arc<str>,
    wake: JobWake,
    max_attempts: u32,
    most: i64,
}

impl Accounts {
    /// `server_id`: this node; `max_attempts`: how often what follows from a change is tried;
    /// `most`: accounts of one user.
    pub fn new(
        (database, log): (Database, EventLog),
        commands: Commands,
        server_id: Arc<str>,
        wake: JobWake,
        (max_attempts, most): (u32, i64),
    ) -> Self {
        Accounts { database, log, commands, server_id, wake, max_attempts, most }
    }

    /// Makes an account; a snapshot of all of its owner's follows.
    ///
    /// May be abandoned at any await: what was begun is carried out all the same.
    pub async fn create(
        &self,
        (tenant, user): (&TenantId, &UserSub),
        new: NewAccount,
        key: Option<CommandKey>,
    ) -> Result<Account, Refusal> {
        let carry_out = |attempt| self.create_once(self.about(tenant, user), new.clone(), attempt);
        self.commands.once(tenant, key, carry_out).await
    }

    async fn create_once(
        &self,
        about: About,
        new: NewAccount,
        attempt: Attempt,
    ) -> Result<Result<Account, Refusal>, StoreError> {
        let own = self.clone();
        self.database
            .run(move |db| async move {
                let own_us = own.log.clock().steady().micros();
                let outcome = crate::command!(db, attempt, |conn, q| {
                    // of those made at one moment some may be let in beyond it
                    if q::accounts::count(conn, (about.tenant.as_str(), about.user.as_str())).await?
                        >= own.most
                    {
                        let detail = format!("a user has at most {} accounts", own.most);
                        return Ok(Err(Refusal::new(RefusalKind::Conflict, "too_many_accounts", detail)));
                    }
                    let account_id = q::accounts::next_number(conn, about.tenant.as_str()).await?;
                    let row = AccountRow {
                        tenant: about.tenant.as_str().to_owned(),
                        account_id,
                        owner: about.user.as_str().to_owned(),
                        name: new.name.clone(),
                        balance: new.balance.millionths(),
                        created_us: about.now.micros(),
                        updated_us: about.now.micros(),
                    };
                    q::accounts::insert(conn, &row).await?;
                    let job = about.record(AccountCreated { account_id }, own.max_attempts);
                    q::jobs::add(conn, job, own_us).await?;
                    Ok(Ok(Account::from(row)))
                });
                crash_point("accounts.after_commit");
                own.wake.wake();
                outcome
            })
            .await
    }

    /// Changes an account of a user.
    ///
    /// May be abandoned at any await: what was begun is carried out all the same.
    pub async fn update(
        &self,
        (tenant, user): (&TenantId, &UserSub),
        account_id: i64,
        changes: AccountChanges,
        key: Option<CommandKey>,
    ) -> Result<Account, Refusal> {
        let carry_out =
            |attempt| self.update_once(self.about(tenant, user), account_id, changes.clone(), attempt);
        self.commands.once(tenant, key, carry_out).await
    }

    async fn update_once(
        &self,
        about: About,
        account_id: i64,
        changes: AccountChanges,
        attempt: Attempt,
    ) -> Result<Result<Account, Refusal>, StoreError> {
        let log = self.log.clone();
        self.database
            .run(move |db| async move {
                let outcome = crate::command!(db, attempt, |conn, q| {
                    let owner = (about.tenant.as_str(), about.user.as_str());
                    let Some(row) = q::accounts::find_locked(conn, owner, account_id).await? else {
                        return Ok(Err(no_account()));
                    };
                    let row = AccountRow {
                        name: changes.name.clone().unwrap_or(row.name),
                        balance: changes.balance.map_or(row.balance, Decimal::millionths),
                        updated_us: about.now.micros(),
                        ..row
                    };
                    q::accounts::update(conn, &row).await?;
                    let changes =
                        Changed { name: changes.name.clone(), balance: changes.balance.map(number) };
                    let told = Updated { account_id: account_id.to_string(), changes };
                    q::outbox::insert(conn, &about.tell_user("account.updated", &told)).await?;
                    Ok(Ok(Account::from(row)))
                });
                log.wake_relay();
                outcome
            })
            .await
    }

    /// Accounts of a user by number, after one.
    pub async fn page(
        &self,
        (tenant, user): (&TenantId, &UserSub),
        after: i64,
        limit: usize,
    ) -> Result<Page<Account>, Refusal> {
        let (tenant, user) = (tenant.as_str().to_owned(), user.as_str().to_owned());
        let wanted = limit as i64 + 1;
        let rows: Vec<AccountRow> =
            self.database
                .run(move |db| async move {
                    crate::read!(db, |conn, q| Ok(
                        q::accounts::page(conn, (&tenant, &user), after, wanted).await?
                    ))
                })
                .await?;
        let rows = rows.into_iter().map(Account::from).collect();
        Ok(Page::of(rows, limit, |account: &Account| account.id.to_string()))
    }

    /// Snapshots of a user's accounts, newest first, after the one of this id.
    pub async fn snapshots(
        &self,
        (tenant, user): (&TenantId, &UserSub),
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Snapshot>, Refusal> {
        let after =
            after.map(|id| place(id).ok_or_else(|| Refusal::malformed("after", "must be a snapshot")));
        let after = after.transpose()?;
        let (tenant, user) = (tenant.as_str().to_owned(), user.as_str().to_owned());
        let wanted = limit as i64 + 1;
        let rows: Vec<SnapshotRow> = self
            .database
            .run(move |db| async move {
                let after = after.as_ref().map(|(snapshot, account)| (snapshot.as_str(), *account));
                crate::read!(db, |conn, q| Ok(
                    q::accounts::snapshots(conn, (&tenant, &user), after, wanted).await?
                ))
            })
            .await?;
        let rows = rows.into_iter().map(Snapshot::from).collect();
        Ok(Page::of(rows, limit, |snapshot: &Snapshot| snapshot.id.clone()))
    }

    fn about(&self, tenant: &TenantId, user: &UserSub) -> About {
        About {
            tenant: tenant.clone(),
            user: user.clone(),
            server_id: self.server_id.to_string(),
            job_id: Uuid::now_v7().to_string(),
            now: self.log.clock().now(),
            origin: current_origin().map(|origin| origin.to_string()),
        }
    }
}

impl<T> Page<T> {
    /// What there is up to `limit`, of rows that are one more where there are more.
    fn of(mut rows: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(id);
        Page { rows, next }
    }
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        Account {
            id: row.account_id,
            name: row.name,
            balance: number(Decimal::from_millionths(row.balance)),
            created_at: Timestamp::from_micros(row.created_us).to_string(),
        }
    }
}

impl From<SnapshotRow> for Snapshot {
    fn from(row: SnapshotRow) -> Self {
        Snapshot {
            id: format!("{}:{}", row.snapshot_id, row.account_id),
            account_id: row.account_id.to_string(),
            name: row.name,
            balance: number(Decimal::from_millionths(row.balance)),
            created_at: Timestamp::from_micros(row.taken_us).to_string(),
        }
    }
}

/// The snapshot and the account that a [`Snapshot::id`] names.
fn place(id: &str) -> Option<(String, i64)> {
    let (snapshot, account) = id.split_once(':')?;
    Some((Uuid::parse_str(snapshot).ok()?.to_string(), account.parse().ok()?))
}

fn no_account() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_account", "the user has no such account")
}

/// A decimal as a JSON number, digit by digit.
fn number(value: Decimal) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("a decimal prints as a JSON number")
}
