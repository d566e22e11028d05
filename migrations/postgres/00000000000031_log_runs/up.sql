-- The newest run of each tenant's log that any node of the cluster has met: what another run took is not published.
CREATE TABLE log_runs (
    tenant TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    born_us BIGINT NOT NULL
);
