DELETE FROM security_state WHERE id = 2;
DROP TABLE block_list;
