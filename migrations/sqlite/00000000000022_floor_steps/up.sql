-- Where what has gone is missed for a time only: [[number, until when in microseconds], ...]; NULL means for ever.
ALTER TABLE log_floors ADD COLUMN steps TEXT;
