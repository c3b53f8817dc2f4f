// Program conformance is what the conformance tests of Remora need of Go: the
// test suites that are published as Go modules, and the applications behind
// the sidecars.
package main

import (
	"fmt"
	"os"
)

var stdin = os.Stdin

func main() {
	commands := map[string]func([]string) error{
		"serve":  serve,
		"h2spec": h2spec,
		"grpc":   rpc,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: conformance serve|h2spec|grpc [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
