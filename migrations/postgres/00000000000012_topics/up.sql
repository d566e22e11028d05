-- The fourth feed: declared topics and their members.
INSERT INTO security_state (id, generation) VALUES (4, 0);

CREATE TABLE declared_topics (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    membership BOOLEAN NOT NULL,
    created_us BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE INDEX declared_topics_by_generation ON declared_topics (generation);

-- since: head of the tenant's log at the grant; null once it was withdrawn (nodes learn of it by the generation).
CREATE TABLE topic_members (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    sub TEXT NOT NULL,
    since TEXT,
    generation BIGINT NOT NULL,
    PRIMARY KEY (tenant, name, sub)
);
CREATE INDEX topic_members_by_generation ON topic_members (generation);
