use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, with_database};
use crate::clock::Clock;
use crate::domain::TenantId;
use crate::jobs::{JobDesk, JobRow, JobView, JobWake, Revived, State};
use crate::storage::Database;

/// Options of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

/// Which jobs are meant.
#[derive(Debug, Args)]
struct Which {
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// All that are dead
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Ids, as `jobs list` shows them
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// List jobs, oldest first
    List {
        #[command(flatten)]
        common: Common,
        /// Only of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// pending, sending, done, retry or dead
        #[arg(long, default_value = "dead", value_parser = state)]
        state: State,
    },
    /// Have dead jobs done again, with all their attempts; a running server begins within a second
    Retry {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        which: Which,
    },
    /// Remove dead jobs
    Purge {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        which: Which,
    },
}

/// Jobs of one page.
const PAGE: usize = 200;

fn state(text: &str) -> Result<State, String> {
    State::parse(text).ok_or_else(|| "must be pending, sending, done, retry or dead".to_owned())
}

/// Runs one of the jobs commands.
pub fn run(args: &JobsArgs) -> anyhow::Result<()> {
    match &args.command {
        JobsCommand::List { common, tenant, state } => list(common, tenant.as_deref(), *state),
        JobsCommand::Retry { common, which } => retry(common, which),
        JobsCommand::Purge { common, which } => purge(common, which),
    }
}

fn of(tenant: Option<&str>) -> anyhow::Result<Option<TenantId>> {
    tenant.map(TenantId::parse).transpose().context("--tenant")
}

fn desk(database: Database) -> JobDesk {
    JobDesk::new(database, Clock::system(), JobWake::default())
}

/// All jobs in a state, page by page.
async fn all(desk: &JobDesk, tenant: Option<&TenantId>, state: State) -> anyhow::Result<Vec<JobRow>> {
    let mut rows: Vec<JobRow> = Vec::new();
    loop {
        let after = rows.last().map_or(String::new(), |row| row.job_id.clone());
        let page = desk.page(tenant, state, &after, PAGE).await?;
        let is_last = page.len() < PAGE;
        rows.extend(page);
        if is_last {
            return Ok(rows);
        }
    }
}

fn list(common: &Common, tenant: Option<&str>, state: State) -> anyhow::Result<()> {
    let ((settings, _), tenant) = (common.settings(&[])?, of(tenant)?);
    let rows =
        with_database(&settings, move |db, _| async move { all(&desk(db), tenant.as_ref(), state).await })?;
    for row in rows {
        if common.json {
            println!("{}", serde_json::to_string(&JobView::from(row))?);
            continue;
        }
        let most = row.last_attempt();
        let (id, tenant, kind, error) = (row.job_id, row.tenant, row.kind, row.error.unwrap_or_default());
        println!("{id}  {tenant:12}  {kind:20}  {}/{} attempts  {error}", row.attempts, most);
    }
    Ok(())
}

fn retry(common: &Common, which: &Which) -> anyhow::Result<()> {
    let ((settings, _), tenant) = (common.settings(&[])?, of(which.tenant.as_deref())?);
    let named = (!which.all).then(|| which.ids.clone());
    let outcomes = with_database(&settings, move |db, _| async move {
        let desk = desk(db);
        let ids = match named {
            Some(ids) => ids,
            None => {
                let dead = all(&desk, tenant.as_ref(), State::Dead).await?;
                dead.into_iter().map(|row| row.job_id).collect()
            }
        };
        let mut outcomes = Vec::new();
        for id in ids {
            let revived = desk.revive(tenant.as_ref(), &id).await?;
            outcomes.push((id, revived));
        }
        Ok(outcomes)
    })?;
    for (id, revived) in outcomes {
        match revived {
            Revived::Due if common.json => println!("{}", json!({"id": id, "state": "pending"})),
            Revived::Due => println!("{id} is due"),
            Revived::NotDead(state) => bail!("job {id} is {state}: only dead ones are tried again"),
            Revived::Unknown => bail!("there is no job {id}"),
        }
    }
    Ok(())
}

fn purge(common: &Common, which: &Which) -> anyhow::Result<()> {
    let ((settings, _), tenant) = (common.settings(&[])?, of(which.tenant.as_deref())?);
    let named = which.ids.clone();
    let is_all = which.all;
    let purged = with_database(&settings, move |db, _| async move {
        let desk = desk(db);
        if is_all {
            return Ok(desk.purge(tenant.as_ref(), None).await?);
        }
        let mut purged = 0;
        for id in named {
            match desk.purge(tenant.as_ref(), Some(&id)).await? {
                0 => bail!("there is no dead job {id}"),
                own => purged += own,
            }
        }
        Ok(purged)
    })?;
    match common.json {
        true => println!("{}", json!({"purged": purged})),
        false => println!("removed {purged}"),
    }
    Ok(())
}
