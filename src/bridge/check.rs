//! What a Redis has to be before a node relies on it.

use redis::aio::MultiplexedConnection;
use redis::cmd;

use super::commands::Commands;
use super::error::BridgeError;
use super::keys::Keys;
use super::servers::Server;

/// The oldest version whose scripts and streams do what the log asks for.
const OLDEST: (u32, u32) = (7, 0);

/// Refuses, by name and with what to do, a Redis that a log must not be kept by; warns of one that may lose it.
pub(super) async fn check(commands: &Commands, keys: &Keys) -> Result<(), BridgeError> {
    for (server, mut link) in commands.everywhere() {
        let info: String = cmd("INFO").query_async(&mut link).await?;
        check_server(&server, &info)?;
        foreign_keys(&mut link, keys).await?;
        // whether its functions may be carried out, on a key that it has
        let key = keys.probe(&commands.lookout.layout().tag(&server).unwrap_or_default(), "start");
        let look = cmd("EVAL").arg("return redis.call('PING').ok or 'PONG'").arg(1).arg(key).clone();
        let _: String = look.query_async(&mut link).await?;
    }
    Ok(())
}

fn check_server(server: &Server, info: &str) -> Result<(), BridgeError> {
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
            %server,
            "Redis may evict the event log: set maxmemory-policy to noeviction, or clients will have to reload"
        );
    }
    let has_replicas = field("connected_slaves").is_some_and(|count| count != "0");
    if has_replicas && field("min_slaves_good_slaves").is_none() {
        tracing::warn!(
            %server,
            "a master that is cut off from its replicas goes on taking publishes, which are lost when another one \
             has its place: set min-replicas-to-write 1 and min-replicas-max-lag to a few seconds"
        );
    }
    Ok(())
}

/// Keys below our prefix that no release of this program writes mean that somebody else lives there.
async fn foreign_keys(link: &mut MultiplexedConnection, keys: &Keys) -> Result<(), BridgeError> {
    let mut cursor = "0".to_owned();
    // a look at some, not an inventory
    for _ in 0..20 {
        let (next, found) = scan(link, keys, &cursor).await?;
        for key in found {
            let kind: String = match key.ends_with("}:meta") {
                true => cmd("TYPE").arg(&key).query_async(link).await?,
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
    Ok(())
}

/// Makes every log start afresh: a log without its `meta` is none.
pub(super) async fn renew_logs(commands: &Commands, keys: &Keys) -> Result<(), BridgeError> {
    if !commands.is_linked_everywhere() {
        let problem =
            "a master is away, whose logs could not start afresh: try --new-epoch again when it is back";
        return Err(BridgeError::Refused(problem.into()));
    }
    for (_, mut link) in commands.everywhere() {
        let mut cursor = "0".to_owned();
        loop {
            let (next, found) = scan(&mut link, keys, &cursor).await?;
            for key in found.iter().filter(|key| key.ends_with("}:meta")) {
                let _: i64 = commands.run(key, cmd("UNLINK").arg(key)).await?;
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
    }
    Ok(())
}

/// Some of the keys below our prefix, and where to go on.
async fn scan(
    link: &mut MultiplexedConnection,
    keys: &Keys,
    cursor: &str,
) -> Result<(String, Vec<String>), BridgeError> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(500);
    Ok(scan.query_async(link).await?)
}
