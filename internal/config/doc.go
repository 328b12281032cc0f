// Package config declares the settings that are no single connector's: the framework's keys of connector configs, and the node's own.
// It also checks whole configs and resolves references to secrets.
package config
