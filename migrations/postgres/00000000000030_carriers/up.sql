CREATE INDEX proposals_by_carrier ON proposals (tenant, carrier_id, updated_us) WHERE NOT withdrawn;
