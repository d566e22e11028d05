DROP TABLE kicks;
DELETE FROM security_state WHERE id = 3;
DELETE FROM tickets WHERE key_id IS NULL OR revoked_generation IS NOT NULL;
ALTER TABLE tickets ALTER COLUMN key_id SET NOT NULL;
ALTER TABLE tickets DROP COLUMN roles;
ALTER TABLE tickets DROP COLUMN carriers;
ALTER TABLE tickets DROP COLUMN issued_us;
ALTER TABLE tickets DROP COLUMN revoked_generation;
