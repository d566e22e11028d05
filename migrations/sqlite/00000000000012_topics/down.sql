DROP TABLE topic_members;
DROP TABLE declared_topics;
DELETE FROM security_state WHERE id = 4;
