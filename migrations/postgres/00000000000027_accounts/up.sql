-- Accounts of users, numbered from 1 in each tenant. A snapshot holds what all accounts of a user were like when one
-- of them came into being; the job that made it names it.
CREATE TABLE account_numbers (
    tenant TEXT NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
CREATE TABLE accounts (
    tenant TEXT NOT NULL,
    account_id BIGINT NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    balance BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, account_id)
);
CREATE INDEX accounts_of_owners ON accounts (tenant, owner, account_id);
CREATE TABLE snapshots (
    tenant TEXT NOT NULL,
    owner TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    account_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    balance BIGINT NOT NULL,
    taken_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, owner, snapshot_id, account_id)
);
