DROP TABLE log_runs;
