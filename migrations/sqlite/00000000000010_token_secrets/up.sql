-- What this installation signs tokens of its own with: one row, made once, the same for every node.
CREATE TABLE token_secrets (
    id BIGINT PRIMARY KEY,
    secret TEXT NOT NULL,
    created_us BIGINT NOT NULL
);
