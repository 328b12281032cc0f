// Package migrate moves connectors between a running Kafka Connect and this cluster, through the REST of both.
//
// Look compares and changes nothing. Apply stops a connector there, takes its offsets over and starts it here; Back does the opposite.
// At every moment at most one of the two runs: what fails on the way puts back what was before. The connector stays on Kafka Connect,
// stopped, so that Back has somewhere to go.
package migrate
