-- An embedded outbox has one relay by the serve lock: there is no lease.
SELECT 1;
