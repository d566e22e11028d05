-- origin, destination, cargo: JSON as given; exception_from: while it is held up, the step it had reached;
-- newest_us: when the newest of its reports happened; reports: how many there were.
CREATE TABLE orders (
    tenant TEXT NOT NULL,
    order_id TEXT NOT NULL,
    shipper TEXT NOT NULL,
    carrier TEXT,
    origin TEXT,
    destination TEXT,
    cargo TEXT,
    bid_id TEXT,
    status TEXT NOT NULL,
    exception_from TEXT,
    newest_us BIGINT,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    reports BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (tenant, order_id)
);
CREATE INDEX orders_by_shipper ON orders (tenant, shipper, order_id);
CREATE INDEX orders_by_carrier ON orders (tenant, carrier, order_id);

-- tracking: JSON; applied: whether the order stood there afterwards, else the report came out of order.
CREATE TABLE order_reports (
    tenant TEXT NOT NULL,
    order_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    status TEXT NOT NULL,
    applied BOOLEAN NOT NULL,
    occurred_us BIGINT NOT NULL,
    received_us BIGINT NOT NULL,
    tracking TEXT,
    reason TEXT,
    PRIMARY KEY (tenant, order_id, number)
);
