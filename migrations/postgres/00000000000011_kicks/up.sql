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

-- Tickets of users have no key.
ALTER TABLE tickets ALTER COLUMN key_id DROP NOT NULL;
ALTER TABLE tickets ADD COLUMN roles TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tickets ADD COLUMN carriers TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tickets ADD COLUMN issued_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tickets ADD COLUMN revoked_generation BIGINT;
CREATE INDEX tickets_by_revocation ON tickets (revoked_generation);
