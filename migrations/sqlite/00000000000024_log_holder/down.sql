ALTER TABLE log_commits DROP COLUMN holder;
