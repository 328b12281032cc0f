-- What the mysql source needs: read the tables, follow the binlog, and know the server's position.
GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'cdc'@'%';
