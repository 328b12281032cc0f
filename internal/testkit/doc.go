// Package testkit gives tests real servers and a few helpers that every package wants.
//
// Servers (MariaDB, MySQL, Kafka) are started on first use by the script servers/servers, which locks across processes: the
// test binaries of all packages share one server of each kind and keep apart by Database and by topic names of their own.
// An address in MARIADB_DSN, MYSQL_DSN or KAFKA_BROKERS is used instead of starting anything.
//
// Servers outlive the test that started them: `make test` stops what it started, `make down` stops them by hand.
//
// This package is for tests only. It starts no goroutines.
package testkit
