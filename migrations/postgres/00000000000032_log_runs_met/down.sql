ALTER TABLE log_runs DROP COLUMN met_at, DROP COLUMN config;
