DROP TABLE order_reports;
DROP TABLE orders;
