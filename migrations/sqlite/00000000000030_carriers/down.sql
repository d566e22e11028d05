DROP INDEX proposals_by_carrier;
