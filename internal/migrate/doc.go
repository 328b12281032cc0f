// Package migrate moves connectors between a running Kafka Connect and this cluster, through the REST of both.
//
// Look compares configs and changes nothing. Shadow runs a connector here beside the one there, pairs what both write by its place in the source's log, and compares. Apply stops a connector there, takes its offsets over and starts it here; Back does the opposite.
// At most one of the two is meant to run at a time: this rests on the states that Kafka Connect shows of its tasks, and on offsets that stand still. What fails on the way puts back what was before; what can't be put back is gone on with by the next run, for the config here says what was begun. The connector stays on Kafka Connect,
// stopped, so that Back has somewhere to go.
package migrate
