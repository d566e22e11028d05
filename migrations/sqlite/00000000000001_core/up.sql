-- Times are microseconds since 1970-01-01 UTC, decimals are millionths, JSON is text.

CREATE TABLE security_state (
    id BIGINT PRIMARY KEY,
    generation BIGINT NOT NULL
);
INSERT INTO security_state (id, generation) VALUES (1, 0);

CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,
    sub TEXT,
    development BOOLEAN NOT NULL,
    created_us BIGINT NOT NULL,
    revoked_us BIGINT
);

CREATE TABLE tickets (
    ticket_id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    sub TEXT,
    path TEXT,
    topics TEXT,
    first_use_by_us BIGINT NOT NULL,
    first_used_us BIGINT,
    expires_us BIGINT NOT NULL
);
CREATE INDEX tickets_by_expiry ON tickets (expires_us);

-- Transactional outbox: rows are inserted in the transaction of the state they tell about,
-- and deleted in (or after) the append to the log.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    topic TEXT NOT NULL,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    key TEXT,
    version BIGINT,
    data TEXT NOT NULL,
    public TEXT,
    created_us BIGINT NOT NULL,
    dead_reason TEXT
);

CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    answer TEXT NOT NULL,
    expires_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, principal, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_us);

CREATE TABLE fleets (
    tenant TEXT NOT NULL,
    fleet_id TEXT NOT NULL,
    ei BIGINT NOT NULL,
    grade TEXT NOT NULL,
    measured_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (tenant, fleet_id)
);

CREATE TABLE fleet_readings (
    tenant TEXT NOT NULL,
    fleet_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    ei BIGINT NOT NULL,
    grade TEXT NOT NULL,
    measured_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, fleet_id, version)
);

-- The event log, where the database is its home.
CREATE TABLE log_commits (
    id BIGINT PRIMARY KEY,
    instance TEXT NOT NULL,
    number BIGINT NOT NULL
);

CREATE TABLE log_tenants (
    tenant TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    head BIGINT NOT NULL,
    trimmed BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    global_floor BIGINT NOT NULL
);

CREATE TABLE log_entries (
    tenant TEXT NOT NULL,
    seq BIGINT NOT NULL,
    topic TEXT NOT NULL,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    key TEXT,
    version BIGINT,
    at_us BIGINT NOT NULL,
    expires_us BIGINT,
    bytes BIGINT NOT NULL,
    data TEXT NOT NULL,
    public TEXT,
    PRIMARY KEY (tenant, seq)
);
CREATE INDEX log_entries_by_topic ON log_entries (tenant, topic, seq);

CREATE TABLE log_floors (
    tenant TEXT NOT NULL,
    topic TEXT NOT NULL,
    floor BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic)
);

CREATE TABLE log_versions (
    tenant TEXT NOT NULL,
    topic TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    version BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic, name, key)
);
CREATE INDEX log_versions_by_seq ON log_versions (tenant, seq);

CREATE TABLE log_dedup (
    tenant TEXT NOT NULL,
    topic TEXT NOT NULL,
    dedup_key TEXT NOT NULL,
    seq BIGINT NOT NULL,
    until_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic, dedup_key)
);
CREATE INDEX log_dedup_by_time ON log_dedup (until_us);

CREATE TABLE log_answers (
    tenant TEXT NOT NULL,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    answer TEXT NOT NULL,
    until_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, principal, key)
);
CREATE INDEX log_answers_by_time ON log_answers (until_us);
