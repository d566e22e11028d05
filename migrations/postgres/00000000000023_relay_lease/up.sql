-- Who publishes the outbox: one node at a time, on the database's clock. The fence rises with every change of
-- leader; the log refuses what an earlier one sends late.
CREATE TABLE relay_lease (
    id BIGINT PRIMARY KEY,
    holder TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
