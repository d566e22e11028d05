ALTER TABLE log_floors DROP COLUMN steps;
