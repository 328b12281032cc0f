// Command bench compares Millrace with Kafka Connect and Debezium from outside: one machine, one database, one table and one broker for
// both, each alone, in turn, round after round. What counts is what a consumer of the topic gets, never what a system says of itself.
//
//	make bench                     the whole comparison, about half an hour; docs/benchmarks.md gets the table
//	go run ./internal/bench -help  parts of it
//
// A round measures Debezium once and Millrace twice; the two runs of Millrace tell how much of a difference is noise. For each system and
// table it measures
//
//	snapshot   rows/s of an initial snapshot, from the first fifth of the rows to the last row
//	catch-up   rows/s of the binlog that grew while the connector was stopped, likewise
//	memory     the largest resident size of the process up to then
//	cpu        processor time of the process for a row, both parts together
//	latency    from before the INSERT was sent until a consumer of committed records has it, at a given rate
//
// and checks that each row came exactly once.
package main
