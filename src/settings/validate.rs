use std::net::{SocketAddr, ToSocketAddrs as _};

use super::error::SettingsError;
use super::{DEFAULTS, JwtAlgorithm, OWN_KEY_ID, Redis, Settings};
use crate::domain::{EntityId, TenantId, Topic};

/// A combination that works and is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

/// Checks every range that `config/default.toml` states, and what must hold between options.
pub(super) fn validate(settings: &Settings) -> Result<Vec<Warning>, SettingsError> {
    let values: toml::Table = toml::Table::try_from(settings).expect("settings are plain data");
    for (key, range) in ranges() {
        let (section, option) = key.split_once('.').expect("a key has a section");
        let value = values[section][option].as_integer().unwrap_or_default();
        if !range.contains(&value) {
            let problem = format!("must be within {}-{}, is {value}", range.start(), range.end());
            return Err(SettingsError::Invalid { key, problem });
        }
    }
    between(settings)?;
    Ok(warnings(settings))
}

/// `Range a-b.` in the comment above an option is the range that is enforced.
fn ranges() -> Vec<(String, std::ops::RangeInclusive<i64>)> {
    let mut found = Vec::new();
    let (mut section, mut range) = ("", None);
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((_, text)) =
            line.strip_prefix('#').and_then(|comment| comment.split_once("Range "))
        {
            let (low, high) = text.trim_end_matches('.').split_once('-').expect("a range is a-b");
            range = Some(low.parse().expect("a number")..=high.parse().expect("a number"));
        } else if let Some((option, _)) = line.split_once(" = ") {
            found.extend(range.take().map(|range| (format!("{section}.{option}"), range)));
        }
    }
    found
}

fn between(settings: &Settings) -> Result<(), SettingsError> {
    let fail = |key: &str, problem: String| Err(SettingsError::Invalid { key: key.to_owned(), problem });
    let (log, sessions) = (&settings.log, &settings.sessions);
    let three_heartbeats_s = (3 * sessions.heartbeat_ms.max(sessions.user_heartbeat_ms)).div_ceil(1000);
    if log.retention_s < three_heartbeats_s {
        return fail("log.retention_s", format!("must cover three heartbeats ({three_heartbeats_s} s)"));
    }
    let events = log.peak_rate_per_s * three_heartbeats_s;
    let bytes = events * log.peak_event_bytes;
    for (key, kept, needed) in [
        ("log.retention_count", log.retention_count, events),
        ("log.retention_bytes", log.retention_bytes, bytes),
    ] {
        if kept < needed {
            let problem = format!("must cover three heartbeats at log.peak_rate_per_s, at least {needed}");
            return fail(key, problem);
        }
    }
    if log.max_event_bytes > log.max_message_bytes {
        return fail("log.max_event_bytes", "must not exceed log.max_message_bytes".into());
    }
    if !["pretty", "json"].contains(&settings.logging.format.as_str()) {
        return fail("logging.format", "must be \"pretty\" or \"json\"".into());
    }
    if tracing_subscriber::EnvFilter::try_new(&settings.logging.level).is_err() {
        return fail("logging.level", "is not a log level or directive".into());
    }
    for (key, address) in [("server.bind", &settings.server.bind), ("metrics.bind", &settings.metrics.bind)] {
        let optional = key == "metrics.bind" && address.is_empty();
        if let Err(error) = resolve(address)
            && !optional
        {
            return fail(key, format!("must be HOST:PORT, is {address:?}: {error}"));
        }
    }
    if settings.cors.allowed_origins.iter().any(|origin| origin != "*" && !origin.contains("://")) {
        return fail("cors.allowed_origins", "must hold origins such as https://app.example".into());
    }
    let url = &settings.storage.database_url;
    if !url.is_empty() && !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return fail("storage.database_url", "must begin with postgres:// or postgresql://".into());
    }
    redis(settings)?;
    jwt(settings)?;
    if settings.compat.anonymous_user.len() > 128 {
        return fail("compat.anonymous_user", "must be at most 128 bytes".into());
    }
    let server = &settings.server;
    if server.tls_cert.is_empty() != server.tls_key.is_empty() {
        return fail("server.tls_key", "and server.tls_cert need each other".into());
    }
    if server.require_tls && server.tls_cert.is_empty() && !is_loopback(&server.bind) {
        let problem =
            format!("forbids plain HTTP on {}: set server.tls_cert and server.tls_key", server.bind);
        return fail("server.require_tls", problem);
    }
    if !["x-forwarded-for", "forwarded"].contains(&settings.server.forwarded_header.as_str()) {
        return fail("server.forwarded_header", "must be \"x-forwarded-for\" or \"forwarded\"".into());
    }
    for (key, networks) in [
        ("limits.exempt", &settings.limits.exempt),
        ("server.trusted_proxies", &settings.server.trusted_proxies),
        ("compat.trust_identity_headers", &settings.compat.trust_identity_headers),
    ] {
        if let Some(wrong) = networks.iter().find(|text| !is_network(text)) {
            return fail(key, format!("must hold addresses or networks such as 10.0.0.0/8, holds {wrong:?}"));
        }
    }
    grades(settings)
}

fn redis(settings: &Settings) -> Result<(), SettingsError> {
    let redis = &settings.redis;
    let fail =
        |key: &str, problem: &str| Err(SettingsError::Invalid { key: key.into(), problem: problem.into() });
    interop(redis)?;
    if redis.url.is_empty() {
        return Ok(());
    }
    const SCHEMES: [&str; 6] =
        ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
    if !redis.url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
        let problem =
            "must begin with redis://, redis+sentinel:// or redis+cluster://, or the same with rediss";
        return fail("redis.url", problem);
    }
    if settings.storage.database_url.is_empty() {
        let problem = "needs storage.database_url: a cluster shares one PostgreSQL. Set DATABASE_URL, or unset \
                       REDIS_URL to serve from one node alone";
        return fail("redis.url", problem);
    }
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '{' | '}'));
    if redis.prefix.is_empty() || redis.prefix.len() > 64 || !is_plain(&redis.prefix) {
        return fail("redis.prefix", "must be 1 to 64 printable ASCII characters without braces or spaces");
    }
    Ok(())
}

fn interop(redis: &Redis) -> Result<(), SettingsError> {
    let fail =
        |key: &str, problem: String| Err(SettingsError::Invalid { key: format!("redis.{key}"), problem });
    if TenantId::parse(&redis.interop.tenant).is_err() {
        return fail("interop.tenant", format!("must be a tenant, is {:?}", redis.interop.tenant));
    }
    for (channel, topic) in &redis.interop.channels {
        let known = [
            "channel:ei:",
            "channel:bid:",
            "channel:proposal:",
            "channel:order:",
            "channel:events",
            "user-events",
        ];
        let is_taken = known.iter().any(|known| channel.starts_with(known));
        if channel.is_empty() || is_taken || channel.starts_with(&redis.prefix) {
            return fail("interop.channels", format!("{channel:?} is empty or has a meaning of its own"));
        }
        if Topic::parse(topic).is_err() {
            return fail(
                "interop.channels",
                format!("must lead to topics such as topic:name, {topic:?} is none"),
            );
        }
    }
    let is_name = |name: &str| EntityId::parse(name.strip_suffix('*').unwrap_or(name)).is_ok();
    if let Some(wrong) = redis.mirror_user_events.iter().find(|name| !is_name(name)) {
        return fail("mirror_user_events", format!("must hold names such as account.*, holds {wrong:?}"));
    }
    Ok(())
}

fn jwt(settings: &Settings) -> Result<(), SettingsError> {
    let jwt = &settings.jwt;
    let fail =
        |key: &str, problem: String| Err(SettingsError::Invalid { key: format!("jwt.{key}"), problem });
    let mut ids = std::collections::HashSet::new();
    for key in &jwt.keys {
        let (id, is_shared) = (&key.id, key.algorithm == JwtAlgorithm::HS256);
        if id.is_empty() || id == OWN_KEY_ID || !ids.insert(id) {
            return fail("keys", format!("must have ids of their own, {id:?} is not one"));
        }
        if key.secret.is_empty() == is_shared || key.file.is_empty() != is_shared {
            let needed = if is_shared { "a secret and no file" } else { "a file (PEM) and no secret" };
            return fail("keys", format!("{id:?}: {:?} needs {needed}", key.algorithm));
        }
    }
    if !jwt.jwks_url.is_empty()
        && !["http://", "https://"].iter().any(|scheme| jwt.jwks_url.starts_with(scheme))
    {
        return fail("jwks_url", "must begin with https:// or http://".into());
    }
    let claims = [&jwt.sub_claim, &jwt.tenant_claim, &jwt.roles_claim, &jwt.carriers_claim];
    if claims.iter().any(|name| name.is_empty())
        || claims.iter().collect::<std::collections::HashSet<_>>().len() < claims.len()
    {
        return fail("sub_claim", "and the other claims must have names of their own".into());
    }
    Ok(())
}

/// The address that `HOST:PORT` stands for: the first one where a name has several.
pub fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    address.to_socket_addrs()?.next().ok_or_else(missing)
}

fn is_loopback(bind: &str) -> bool {
    resolve(bind).is_ok_and(|at| at.ip().is_loopback())
}

fn is_network(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok()
}

fn grades(settings: &Settings) -> Result<(), SettingsError> {
    let parsed: Result<Vec<_>, _> =
        settings.fleets.grade_bounds.iter().map(|bound| crate::domain::Decimal::parse(bound)).collect();
    let rising = parsed.is_ok_and(|bounds| bounds.len() == 4 && bounds.is_sorted_by(|a, b| a < b));
    if rising {
        return Ok(());
    }
    let problem = "must hold four rising decimals, the upper bounds of A, B, C and D".into();
    Err(SettingsError::Invalid { key: "fleets.grade_bounds".into(), problem })
}

fn warnings(settings: &Settings) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |text: String| found.push(Warning(text));
    if settings.cors.allowed_origins.iter().any(|origin| origin == "*") {
        warn("cors.allowed_origins holds \"*\": any web page may call the API with a key it knows".into());
    }
    if settings.log.window_bytes > settings.log.window_total_bytes {
        warn("log.window_bytes exceeds log.window_total_bytes: one tenant can never fill its window".into());
    }
    if settings.sessions.queue_bytes < settings.log.max_message_bytes / 8 {
        warn(
            "sessions.queue_bytes is small beside log.max_message_bytes: large events will cut slow readers"
                .into(),
        );
    }
    let secrets = settings.jwt.keys.iter().map(|key| &key.secret).chain([&settings.jwt.secret]);
    if secrets.into_iter().any(|secret| (1..32).contains(&secret.len())) {
        warn("a secret in [jwt] is shorter than 32 bytes: HS256 tokens can be forged by guessing it".into());
    }
    if settings.jwt.jwks_url.starts_with("http://") {
        warn("jwt.jwks_url is not https: whoever is on the way can make tokens of their own".into());
    }
    if !settings.compat.anonymous_user.is_empty() {
        warn(format!(
            "compat.anonymous_user: whoever reaches this server acts as user {:?} on the paths of accounts and their events",
            settings.compat.anonymous_user
        ));
    }
    if !settings.compat.trust_identity_headers.is_empty() {
        warn(format!(
            "compat.trust_identity_headers: whoever reaches this server from {} is believed to be any user on /api/*",
            settings.compat.trust_identity_headers.join(", ")
        ));
    }
    let loopback = is_loopback(&settings.server.bind);
    if !loopback && settings.server.tls_cert.is_empty() {
        warn(format!(
            "server.bind {} is reachable from outside and speaks plain HTTP: put TLS in front",
            settings.server.bind
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_warn_of_nothing() {
        assert_eq!(validate(&Settings::defaults()).unwrap(), []);
        assert!(ranges().len() > 30);
    }

    #[test]
    fn retention_must_outlast_three_heartbeats() {
        let mut settings = Settings::defaults();
        settings.log.peak_rate_per_s = 1_000_000;
        assert!(validate(&settings).unwrap_err().to_string().contains("log.retention_count"));
        settings.log.retention_count = 100_000_000;
        assert!(validate(&settings).unwrap_err().to_string().contains("log.retention_bytes"));
        settings.log.peak_rate_per_s = 1;
        settings.sessions.heartbeat_ms = 600_000;
        settings.log.retention_s = 60;
        assert!(validate(&settings).unwrap_err().to_string().contains("log.retention_s"));
    }
}
