DROP TABLE proposals;
DROP TABLE bids;
