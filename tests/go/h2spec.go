package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// outcome is one line of the report.
type outcome struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Result   string   `json:"result"` // passed, skipped or failed
	Expected []string `json:"expected,omitempty"`
	Actual   string   `json:"actual,omitempty"`
}

// task is one test case and its place in the suite.
type task struct {
	id   string
	name string
	test *spec.TestCase
}

// h2spec runs the suite and writes each outcome as a line of JSON. Unlike the
// suite's own program it runs cases side by side, each on its own connection,
// and goes on where a connection is refused.
func h2spec(arguments []string) error {
	flags := flag.NewFlagSet("h2spec", flag.ExitOnError)
	address := flags.String("address", "", "host:port to connect to, and to name as authority")
	timeout := flags.Duration("timeout", 2*time.Second, "how long a case waits for what it expects")
	parallel := flags.Int("parallel", 8, "cases at the same time")
	only := flags.String("only", "", "ids that begin so")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	host, portText, err := net.SplitHostPort(*address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	var tasks []task
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		tasks = collect(tasks, group)
	}
	queue := make(chan task)
	outcomes := make(chan outcome)
	var workers sync.WaitGroup
	for range *parallel {
		workers.Go(func() {
			for task := range queue {
				outcomes <- run(task, config.Config{
					Host: host, Port: port, Path: "/", Timeout: *timeout,
					MaxHeaderLen: 4000, Strict: true,
				})
			}
		})
	}
	go func() {
		for _, task := range tasks {
			if strings.HasPrefix(task.id, *only) {
				queue <- task
			}
		}
		close(queue)
		workers.Wait()
		close(outcomes)
	}()
	report := json.NewEncoder(os.Stdout)
	for outcome := range outcomes {
		if err := report.Encode(outcome); err != nil {
			return err
		}
	}
	return nil
}

// collect numbers the cases as the suite does: the strict ones last in each group.
func collect(tasks []task, group *spec.TestGroup) []task {
	number := 0
	for _, tests := range [][]*spec.TestCase{group.Tests, group.StrictTests} {
		for _, test := range tests {
			number++
			id := fmt.Sprintf("%s/%d", group.ID(), number)
			tasks = append(tasks, task{id, test.Desc, test})
		}
	}
	for _, inner := range group.Groups {
		tasks = collect(tasks, inner)
	}
	return tasks
}

func run(task task, settings config.Config) outcome {
	made := outcome{ID: task.id, Name: task.name, Result: "passed"}
	connection, err := spec.Dial(&settings)
	if err == nil {
		err = task.test.Run(&settings, connection)
		connection.Close()
	}
	var told *spec.TestError
	switch {
	case err == nil:
	case errors.Is(err, spec.ErrSkipped):
		made.Result = "skipped"
	case errors.As(err, &told) && isReset(told):
	case errors.As(err, &told):
		made.Result, made.Expected, made.Actual = "failed", told.Expected, told.Actual
	default:
		made.Result, made.Actual = "failed", err.Error()
	}
	return made
}

// isReset tells a connection that was closed by a TCP reset where closing was
// what the case expects. The suite means to take it for closed, but compares
// with an error value that today's Go wraps.
func isReset(told *spec.TestError) bool {
	return slices.Contains(told.Expected, "Connection closed") &&
		strings.HasSuffix(told.Actual, syscall.ECONNRESET.Error())
}
