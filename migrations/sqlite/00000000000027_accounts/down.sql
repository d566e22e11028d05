DROP TABLE snapshots;
DROP TABLE accounts;
DROP TABLE account_numbers;
