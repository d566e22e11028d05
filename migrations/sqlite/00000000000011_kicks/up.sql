-- Each feed has a row in security_state, whose generation moves on with every change that nodes have to hear
-- of: 1 keys, 2 the block list, 3 kicks and revoked tickets.
INSERT INTO security_state (id, generation) VALUES (3, 0);

-- Users whose tokens and tickets issued up to a moment are no longer good.
CREATE TABLE kicks (
    tenant TEXT NOT NULL,
    sub TEXT NOT NULL,
    not_before_us BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    PRIMARY KEY (tenant, sub)
);
CREATE INDEX kicks_by_generation ON kicks (generation);

-- Tickets of users have no key (SQLite cannot take a NOT NULL away from a column).
CREATE TABLE new_tickets (
    ticket_id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    key_id TEXT,
    sub TEXT,
    path TEXT,
    topics TEXT,
    first_use_by_us BIGINT NOT NULL,
    first_used_us BIGINT,
    expires_us BIGINT NOT NULL,
    roles TEXT NOT NULL DEFAULT '[]',
    carriers TEXT NOT NULL DEFAULT '[]',
    issued_us BIGINT NOT NULL DEFAULT 0,
    revoked_generation BIGINT
);
INSERT INTO new_tickets (ticket_id, hash, tenant, key_id, sub, path, topics, first_use_by_us, first_used_us, expires_us)
    SELECT ticket_id, hash, tenant, key_id, sub, path, topics, first_use_by_us, first_used_us, expires_us FROM tickets;
DROP TABLE tickets;
ALTER TABLE new_tickets RENAME TO tickets;
CREATE INDEX tickets_by_expiry ON tickets (expires_us);
CREATE INDEX tickets_by_revocation ON tickets (revoked_generation);
