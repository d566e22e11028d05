-- Networks that may not connect; row 2 of security_state counts the changes of this table.
CREATE TABLE block_list (
    cidr TEXT PRIMARY KEY,
    reason TEXT,
    created_us BIGINT NOT NULL,
    expires_us BIGINT
);
CREATE INDEX block_list_by_expiry ON block_list (expires_us);

INSERT INTO security_state (id, generation) VALUES (2, 0);
