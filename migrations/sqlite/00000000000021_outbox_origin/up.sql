-- The request that a row comes from, `<traceparent> <request id>`, while somebody follows requests in the log.
ALTER TABLE outbox ADD COLUMN origin TEXT;
