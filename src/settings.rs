//! Options: `config/default.toml` (compiled in) → file → environment → flags, then validated as a whole.

mod error;
mod load;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use error::SettingsError;
pub use load::{DEFAULTS, Overrides, load};
pub use validate::{Warning, resolve};

/// Everything that can be set; `config/default.toml` says what each option means, its unit and range.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the documentation; a test compares the two")]
pub struct Settings {
    pub server: Server,
    pub storage: Storage,
    pub redis: Redis,
    pub log: Log,
    pub sessions: Sessions,
    pub auth: Auth,
    pub jwt: Jwt,
    pub compat: Compat,
    pub limits: Limits,
    pub cors: Cors,
    pub idempotency: Idempotency,
    pub fleets: Fleets,
    pub ranking: Ranking,
    pub jobs: Jobs,
    pub accounts: Accounts,
    pub drain: Drain,
    pub logging: Logging,
    pub metrics: Metrics,
}

macro_rules! section {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        #[doc = concat!("Section of the same name in `config/default.toml`.")]
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "config/default.toml is the documentation; a test compares the two")]
        pub struct $name {
            $(pub $field: $type),+
        }
    };
}

section!(Server {
    bind: String,
    server_id: String,
    workers: usize,
    backlog: u32,
    max_connections_per_worker: usize,
    request_head_timeout_ms: u64,
    request_body_timeout_ms: u64,
    max_body_bytes: usize,
    keep_alive_ms: u64,
    stall_timeout_ms: u64,
    max_headers: usize,
    max_header_bytes: usize,
    trusted_proxies: Vec<String>,
    forwarded_header: String,
    tls_cert: String,
    tls_key: String,
    tls_handshake_timeout_ms: u64,
    require_tls: bool,
});
section!(Storage {
    data_dir: String,
    database_url: String,
    read_connections: usize,
    wait_ms: u64,
    statement_timeout_ms: u64,
    idle_transaction_timeout_ms: u64,
    tls_ca: String,
    require_tls: bool,
    max_database_bytes: u64,
});
section!(Redis {
    url: String,
    sentinel_user: String,
    sentinel_password: String,
    prefix: String,
    timeout_ms: u64,
    tls_ca: String,
    require_tls: bool,
    ingest: bool,
    mirror: bool,
    mirror_user_events: Vec<String>,
    mirror_all_rankings: bool,
    interop: RedisInterop,
});
section!(RedisInterop { tenant: String, channels: BTreeMap<String, String> });
section!(Log {
    retention_count: u64,
    retention_s: u64,
    retention_bytes: u64,
    max_trim_floors: usize,
    peak_rate_per_s: u64,
    peak_event_bytes: u64,
    window_count: usize,
    window_bytes: usize,
    window_s: u64,
    window_total_bytes: usize,
    max_event_bytes: usize,
    max_message_bytes: usize,
    append_queue: usize,
    append_queue_bytes: usize,
    relay_batch: usize,
});
section!(Sessions {
    max_topics: usize,
    heartbeat_ms: u64,
    user_heartbeat_ms: u64,
    queue_bytes: usize,
    queue_items: usize,
    user_queue_items: usize,
    max_age_s: u64,
    retry_ms: u64,
    ready_timeout_ms: u64,
    sweep_ms: u64,
});
section!(Auth {
    websocket_timeout_ms: u64,
    ticket_first_use_s: u64,
    ticket_lifetime_s: u64,
    revocation_poll_ms: u64
});
section!(Jwt {
    secret: String,
    jwks_url: String,
    jwks_refresh_s: u64,
    jwks_retry_s: u64,
    issuer: String,
    audience: String,
    leeway_s: u64,
    sub_claim: String,
    tenant_claim: String,
    roles_claim: String,
    carriers_claim: String,
    keys: Vec<JwtKey>,
});
section!(Compat { anonymous_user: String, trust_identity_headers: Vec<String> });
section!(Limits {
    attempts_per_min: u32,
    exempt: Vec<String>,
    failure_delay_max_ms: u64,
    delayed_answers: usize,
    user_connects_per_min: u32,
    key_connects_per_min: u32,
    user_commands_per_s: u32,
    user_commands_burst: u32,
    key_commands_per_s: u32,
    key_commands_burst: u32,
    user_publishes_per_s: u32,
    user_publishes_burst: u32,
    key_publishes_per_s: u32,
    key_publishes_burst: u32,
    topic_publishes_per_s: u32,
    topic_publishes_burst: u32,
    tenant_events_per_min: u32,
    connections_per_node: usize,
    connections_per_tenant: usize,
    connections_per_user: usize,
    connections_per_address: usize,
    tracked: usize,
    json_depth: usize,
    block_list_file: String,
});
section!(Cors { allowed_origins: Vec<String> });
section!(Idempotency { publish_s: u64, command_s: u64, dedup_window_ms: u64 });
section!(Ranking {
    window: usize,
    full_max: usize,
    frame_ms: u64,
    max_proposals: usize,
    queue: usize,
    batch: usize,
    idle_ms: u64,
    threads: usize,
});
section!(Fleets { grade_bounds: Vec<String>, history: usize });
section!(Jobs {
    poll_ms: u64,
    attempt_timeout_ms: u64,
    max_attempts: u32,
    backoff_ms: u64,
    keep_done_s: u64,
    snapshots_at_a_time: usize,
});
section!(Accounts { max_per_user: i64, snapshots_kept: i64 });
section!(Drain { announce_ms: u64, window_s: u64, retry_spread_ms: u64 });
section!(Logging { level: String, format: String, dir: String, max_files: usize });
section!(Metrics { bind: String });

/// The `kid` of tokens signed with the secret of the installation itself.
pub const OWN_KEY_ID: &str = "installation";

/// One key that tokens may be signed with, an item of `jwt.keys`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKey {
    /// What tokens call it (`kid`).
    pub id: String,
    /// The only algorithm it is good for.
    pub algorithm: JwtAlgorithm,
    /// The shared secret, for HS256.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// A PEM file with the public key, for all others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

/// How a token is signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as on the wire")]
pub enum JwtAlgorithm {
    HS256,
    RS256,
    ES256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Settings {
    /// The compiled-in defaults.
    pub fn defaults() -> Self {
        toml::from_str(DEFAULTS).expect("config/default.toml fits the settings")
    }

    /// The options as TOML with secrets masked, for `check-config`.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        shown.storage.database_url = mask_url(&self.storage.database_url);
        shown.redis.url = mask_url(&self.redis.url);
        let others = [&mut shown.jwt.secret, &mut shown.redis.sentinel_password];
        let secrets = shown.jwt.keys.iter_mut().map(|key| &mut key.secret).chain(others);
        secrets.filter(|secret| !secret.is_empty()).for_each(|secret| *secret = "***".to_owned());
        toml::to_string(&shown).expect("settings are plain data")
    }
}

/// `scheme://user:***@host/…`
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    let user = credentials.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***@{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_masked() {
        assert_eq!(mask_url("postgres://u:p@ss@h:5432/db"), "postgres://u:***@h:5432/db");
        assert_eq!(mask_url(""), "");
    }

    #[test]
    fn every_option_is_documented_above_its_default() {
        let mut previous = "";
        for line in DEFAULTS.lines() {
            let is_option = !line.starts_with('#') && line.contains(" = ");
            assert!(!is_option || previous.starts_with('#'), "no comment above: {line}");
            previous = line;
        }
    }
}
