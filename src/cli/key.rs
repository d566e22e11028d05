use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, with_database};
use crate::clock::Clock;
use crate::domain::{TenantId, Timestamp, UserSub};
use crate::identity::{NewKey, Scope, Scopes, create_key};
use crate::storage::{ApiKeyRow, StoreError};

/// Options of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key; it is printed once and only its hash is kept
    Create {
        #[command(flatten)]
        common: Common,
        /// The tenant it belongs to; not for scope operator
        #[arg(long, default_value = "default")]
        tenant: String,
        /// What it is for, separated by commas: publish, subscribe, manage, admin, act_as_user, operator
        #[arg(long)]
        scopes: String,
        /// Bind it to a user: it then has that user's rights
        #[arg(long)]
        sub: Option<String>,
    },
    /// List keys, never the keys themselves
    List {
        #[command(flatten)]
        common: Common,
        /// Only of this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Revoke a key; its sessions end within a second
    Revoke {
        #[command(flatten)]
        common: Common,
        /// The key's id, as `key list` shows it
        key_ids: Vec<String>,
    },
}

/// Runs one of the key commands.
pub fn run(args: &KeyArgs) -> anyhow::Result<()> {
    match &args.command {
        KeyCommand::Create { common, tenant, scopes, sub } => create(common, tenant, scopes, sub.as_deref()),
        KeyCommand::List { common, tenant } => list(common, tenant.clone()),
        KeyCommand::Revoke { common, key_ids } => revoke(common, key_ids),
    }
}

fn create(common: &Common, tenant: &str, scopes: &str, sub: Option<&str>) -> anyhow::Result<()> {
    let scopes = Scopes::parse(scopes).map_err(|word| anyhow::anyhow!("there is no scope {word:?}"))?;
    if scopes.is_empty() {
        bail!("a key needs at least one scope");
    }
    let is_operator = scopes.has(Scope::Operator);
    if is_operator && scopes != Scopes::default().with(Scope::Operator) {
        bail!("the scope operator is not bound to a tenant and stands alone: make a key of its own for it");
    }
    let tenant = if is_operator { None } else { Some(TenantId::parse(tenant).context("--tenant")?) };
    let sub = sub.map(UserSub::parse).transpose().context("--sub")?;
    let (settings, _) = common.settings(&[])?;
    let new = NewKey { tenant, scopes, sub, development: false };
    let (key, row) =
        with_database(&settings, |db, _| async move { Ok(create_key(&db, Clock::system(), new).await?) })?;
    if common.json {
        let shown = json!({"key_id": row.key_id, "key": key, "tenant": row.tenant, "scopes": scopes.words(), "sub": row.sub});
        println!("{shown}");
    } else {
        println!("{key}");
        eprintln!("key {} of tenant {:?} for {}; it is shown only now", row.key_id, row.tenant, row.scopes);
    }
    Ok(())
}

fn list(common: &Common, tenant: Option<String>) -> anyhow::Result<()> {
    let (settings, _) = common.settings(&[])?;
    let rows: Vec<ApiKeyRow> = with_database(&settings, |db, _| async move {
        let all = db.run(|db| async move { crate::read!(db, |conn, q| Ok(q::api_keys::all(conn).await?)) });
        Ok(all.await?)
    })?;
    for row in rows.iter().filter(|row| tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant)) {
        let created = Timestamp::from_micros(row.created_us);
        let revoked = row.revoked_us.map(Timestamp::from_micros);
        if common.json {
            let scopes: Vec<&str> = row.scopes.split(',').collect();
            let shown = json!({"key_id": row.key_id, "tenant": row.tenant, "scopes": scopes, "sub": row.sub,
                "development": row.development, "created_at": created, "revoked_at": revoked});
            println!("{shown}");
        } else {
            let state = revoked.map_or("in force".to_owned(), |at| format!("revoked {at}"));
            println!("{}  {:12}  {:30}  {created}  {state}", row.key_id, row.tenant, row.scopes);
        }
    }
    Ok(())
}

fn revoke(common: &Common, key_ids: &[String]) -> anyhow::Result<()> {
    let (settings, _) = common.settings(&[])?;
    for key_id in key_ids {
        let id = key_id.clone();
        let found: Option<bool> = with_database(&settings, |db, _| async move {
            let now = Clock::system().now().micros();
            let revoked = db.run(move |db| async move {
                crate::write_tx!(db, |conn, q| Ok::<_, StoreError>(
                    q::api_keys::revoke(conn, None, &id, now).await?
                ))
            });
            Ok(revoked.await?)
        })?;
        match found {
            Some(newly) if common.json => {
                println!("{}", json!({"key_id": key_id, "revoked": true, "before": !newly}))
            }
            Some(_) => println!("revoked {key_id}"),
            None => bail!("there is no key {key_id}"),
        }
    }
    Ok(())
}
