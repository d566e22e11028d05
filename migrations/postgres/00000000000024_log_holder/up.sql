-- The process that may write the log: whoever finds another one here has been replaced.
ALTER TABLE log_commits ADD COLUMN holder TEXT;
