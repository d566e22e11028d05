DROP INDEX jobs_open;
ALTER TABLE jobs DROP COLUMN attempts_before;
