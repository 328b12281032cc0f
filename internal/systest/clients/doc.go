// Command clients plays one scenario with an unmodified Go client of Kafka Connect's REST API and prints what the client made of each
// answer, a line of JSON a step:
//
//	clients go-kafka-connect|connect-client URL NAME CONFIG
//
// NAME is free for a connector, CONFIG its config as a JSON object. TestClients runs it against Kafka Connect and against Millrace, and
// compares the lines. It is a module of its own, so that neither the clients' dependencies nor their licences (one is GPL) touch the product.
package main
