-- Which configuration of Redis made the run's server the master: a greater one is later. And when a node last said that
-- the run is there: one that is gone gives way to any other.
ALTER TABLE log_runs
    ADD COLUMN config BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN met_at TIMESTAMPTZ NOT NULL DEFAULT now();
