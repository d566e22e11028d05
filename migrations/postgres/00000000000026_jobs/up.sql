-- Reliable work: done after the transaction that asks for it, again and again until it succeeds or is dead.
-- `kind` says who does it, `channel` what it counts against; a smaller `priority` comes first. `deadline_us` is
-- committed before the work is begun: one that is past it belongs to nobody. `server_id` is the node that accepted
-- what the job comes from.
CREATE TABLE jobs (
    job_id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    channel TEXT NOT NULL,
    priority BIGINT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'done', 'retry', 'dead')),
    attempts BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    due_us BIGINT NOT NULL,
    deadline_us BIGINT,
    error TEXT,
    server_id TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    finished_us BIGINT
);
CREATE INDEX jobs_waiting ON jobs (channel, priority, due_us, job_id) WHERE state IN ('pending', 'retry');
CREATE INDEX jobs_due ON jobs (channel, due_us) WHERE state IN ('pending', 'retry');
CREATE INDEX jobs_sending ON jobs (deadline_us) WHERE state = 'sending';
CREATE INDEX jobs_done ON jobs (finished_us) WHERE state = 'done';
CREATE INDEX jobs_of_tenants ON jobs (tenant, state, job_id);
