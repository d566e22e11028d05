use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, with_database};
use crate::clock::Clock;
use crate::domain::{TenantId, Timestamp, UserSub};
use crate::identity::{NewKey, Scope, Scopes, create_key, import_key};
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
    /// Take over a key that exists elsewhere: it is read from standard input, and only its hash is kept
    Import {
        #[command(flatten)]
        common: Common,
        /// The tenant it belongs to; not for scope operator
        #[arg(long, default_value = "default")]
        tenant: String,
        /// What it is for, separated by commas, as for `key create`
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
        #[arg(required = true)]
        key_ids: Vec<String>,
    },
}

/// Runs one of the key commands.
pub fn run(args: &KeyArgs) -> anyhow::Result<()> {
    match &args.command {
        KeyCommand::Create { common, tenant, scopes, sub } => {
            create(common, described(tenant, scopes, sub.as_deref())?)
        }
        KeyCommand::Import { common, tenant, scopes, sub } => {
            import(common, described(tenant, scopes, sub.as_deref())?)
        }
        KeyCommand::List { common, tenant } => list(common, tenant.clone()),
        KeyCommand::Revoke { common, key_ids } => revoke(common, key_ids),
    }
}

fn described(tenant: &str, scopes: &str, sub: Option<&str>) -> anyhow::Result<NewKey> {
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
    Ok(NewKey { tenant, scopes, sub, development: false })
}

fn create(common: &Common, new: NewKey) -> anyhow::Result<()> {
    let (settings, _) = common.settings(&[])?;
    let (key, row) =
        with_database(&settings, |db, _| async move { Ok(create_key(&db, Clock::system(), new).await?) })?;
    if common.json {
        let mut shown = shown(&row);
        shown["key"] = key.into();
        println!("{shown}");
    } else {
        println!("{key}");
        eprintln!("key {} of tenant {:?} for {}; it is shown only now", row.key_id, row.tenant, row.scopes);
    }
    Ok(())
}

fn import(common: &Common, new: NewKey) -> anyhow::Result<()> {
    let (settings, _) = common.settings(&[])?;
    let mut key = String::new();
    std::io::stdin().lock().take(4096).read_to_string(&mut key).context("standard input")?;
    let key = key.trim().to_owned();
    let row =
        with_database(
            &settings,
            |db, _| async move { Ok(import_key(&db, Clock::system(), new, &key).await?) },
        )?;
    match common.json {
        true => println!("{}", shown(&row)),
        false => println!("imported as {} of tenant {:?} for {}", row.key_id, row.tenant, row.scopes),
    }
    Ok(())
}

/// A key as scripts see it; the key itself is not among it.
fn shown(row: &ApiKeyRow) -> serde_json::Value {
    let scopes: Vec<&str> = row.scopes.split(',').collect();
    json!({"key_id": row.key_id, "tenant": row.tenant, "scopes": scopes, "sub": row.sub})
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
            let mut shown = shown(row);
            shown["development"] = row.development.into();
            shown["created_at"] = json!(created);
            shown["revoked_at"] = json!(revoked);
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
