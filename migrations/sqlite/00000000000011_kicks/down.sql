DROP TABLE kicks;
DELETE FROM security_state WHERE id = 3;
CREATE TABLE old_tickets (
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
INSERT INTO old_tickets
    SELECT ticket_id, hash, tenant, key_id, sub, path, topics, first_use_by_us, first_used_us, expires_us
    FROM tickets WHERE key_id IS NOT NULL AND revoked_generation IS NULL;
DROP TABLE tickets;
ALTER TABLE old_tickets RENAME TO tickets;
CREATE INDEX tickets_by_expiry ON tickets (expires_us);
