CREATE TABLE bids (
    tenant TEXT NOT NULL,
    bid_id TEXT NOT NULL,
    -- who created it: a user's sub; null: a service
    owner TEXT,
    -- title, origin, destination, cargo
    about TEXT NOT NULL,
    criteria TEXT NOT NULL,
    visibility TEXT NOT NULL,
    max_ei BIGINT,
    status TEXT NOT NULL,
    opens_us BIGINT,
    closes_us BIGINT,
    snipe_window_us BIGINT,
    snipe_extend_us BIGINT,
    -- what pseudonyms are made with
    secret TEXT NOT NULL,
    awarded TEXT,
    -- what the award has created
    order_id TEXT,
    -- counts changes of the status, and of the proposals
    version BIGINT NOT NULL,
    ranking_version BIGINT NOT NULL,
    -- when it opens or closes by itself next
    due_us BIGINT,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, bid_id)
);
CREATE INDEX bids_by_due ON bids (due_us) WHERE due_us IS NOT NULL;

CREATE TABLE proposals (
    tenant TEXT NOT NULL,
    bid_id TEXT NOT NULL,
    proposal_id TEXT NOT NULL,
    carrier_id TEXT NOT NULL,
    price BIGINT NOT NULL,
    ei BIGINT NOT NULL,
    lead_time_hours BIGINT NOT NULL,
    rating BIGINT,
    withdrawn BOOLEAN NOT NULL,
    -- the bid's ranking_version with its last change
    version BIGINT NOT NULL,
    submitted_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (tenant, bid_id, proposal_id)
);
CREATE INDEX proposals_by_version ON proposals (tenant, bid_id, version);
CREATE UNIQUE INDEX proposals_of_carrier ON proposals (tenant, bid_id, carrier_id) WHERE NOT withdrawn;
