// Command millrace is the whole system in one binary: node, REST and command line.
package main

import (
	"os"

	"github.com/millrace/millrace/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
