// Package commandv1 is what the cluster stores, generated from command.proto, and the number of the protocol that this version speaks.
// It holds no logic: coordinator/state says what a command does.
package commandv1
