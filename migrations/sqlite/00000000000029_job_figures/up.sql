-- Jobs are counted without those that are done; a dead one that is done again goes on counting its attempts, those of
-- its former life are `attempts_before`.
ALTER TABLE jobs ADD COLUMN attempts_before BIGINT NOT NULL DEFAULT 0;
CREATE INDEX jobs_open ON jobs (state, channel, due_us) WHERE state <> 'done';
