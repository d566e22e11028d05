//! What a Redis has to be before a node relies on it.

use redis::cmd;

use super::commands::Commands;
use super::error::BridgeError;
use super::keys::Keys;
use crate::domain::TenantId;

/// The oldest version whose scripts and streams do what the log asks for.
const OLDEST: (u32, u32) = (7, 0);

/// Refuses, by name and with what to do, a Redis that a log must not be kept by; warns of one that may lose it.
pub(super) async fn check(commands: &Commands, keys: &Keys) -> Result<(), BridgeError> {
    let info: String = commands.run(&cmd("INFO")).await?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let version = field("redis_version").unwrap_or_default();
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let own = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if own < OLDEST {
        return Err(BridgeError::Refused(format!(
            "its version is {version:?}, at least {}.{} is needed: upgrade it, or set redis.url to another one",
            OLDEST.0, OLDEST.1
        )));
    }
    let policy = field("maxmemory_policy").unwrap_or_default();
    if policy != "noeviction" {
        tracing::warn!(
            policy,
            "Redis may evict the event log: set maxmemory-policy to noeviction, or clients will have to reload"
        );
    }
    foreign_keys(commands, keys).await
}

/// Keys below our prefix that no release of this program writes mean that somebody else lives there.
async fn foreign_keys(commands: &Commands, keys: &Keys) -> Result<(), BridgeError> {
    let mut cursor = "0".to_owned();
    // a look at some, not an inventory
    for _ in 0..20 {
        let (next, found) = scan(commands, keys, &cursor).await?;
        for key in found {
            let kind: String = match key.ends_with("}:meta") {
                true => commands.run(cmd("TYPE").arg(&key)).await?,
                false => "hash".into(),
            };
            if !keys.is_own(&key) || kind != "hash" {
                return Err(BridgeError::Refused(format!(
                    "it holds the key {key:?}, which is somebody else's: set redis.prefix to one of this cluster's own"
                )));
            }
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    // whether its functions may be carried out
    let tenant = TenantId::default_tenant();
    let look =
        cmd("EVAL").arg("return redis.call('PING').ok or 'PONG'").arg(1).arg(keys.live(&tenant)).clone();
    let _: String = commands.run(&look).await?;
    Ok(())
}

/// Makes every log start afresh: a log without its `meta` is none.
pub(super) async fn renew_logs(commands: &Commands, keys: &Keys) -> Result<(), BridgeError> {
    let mut cursor = "0".to_owned();
    loop {
        let (next, found) = scan(commands, keys, &cursor).await?;
        for key in found.iter().filter(|key| key.ends_with("}:meta")) {
            let _: i64 = commands.run(cmd("UNLINK").arg(key)).await?;
        }
        cursor = next;
        if cursor == "0" {
            return Ok(());
        }
    }
}

/// Some of the keys below our prefix, and where to go on.
async fn scan(commands: &Commands, keys: &Keys, cursor: &str) -> Result<(String, Vec<String>), BridgeError> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(500);
    commands.run(&scan).await
}
