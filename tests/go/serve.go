package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // A compressed request is answered compressed.
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

// The answer to every request: longer than any window that h2spec sets first.
var body = []byte(strings.Repeat("Remora conformance. ", 12) + "\n")

// A request's body is read up to this, then the answer is given all the same.
const maxBodyBytes = 16 << 20

// serve is the application behind the sidecar. It ends when its standard input
// does, so that it never outlives the test.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	h2c := flags.String("h2c", "", "addresses for HTTP/1.1 and HTTP/2 without TLS, separated by commas")
	rpc := flags.String("grpc", "", "address for grpc-go's interoperability service")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	ended := make(chan error, 8)
	for _, address := range strings.Split(*h2c, ",") {
		if address == "" {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { ended <- plainServer().Serve(listener) }()
	}
	if *rpc != "" {
		listener, err := net.Listen("tcp", *rpc)
		if err != nil {
			return err
		}
		go func() { ended <- interopServer().Serve(listener) }()
	}
	go func() {
		_, err := io.Copy(io.Discard, stdin)
		ended <- errors.Join(errors.New("standard input ended"), err)
	}()
	fmt.Println("listening")
	return <-ended
}

func plainServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	handler := func(answer http.ResponseWriter, request *http.Request) {
		if _, err := io.Copy(io.Discard, io.LimitReader(request.Body, maxBodyBytes)); err != nil {
			return
		}
		answer.Header().Set("content-type", "text/plain")
		_, _ = answer.Write(body)
	}
	return &http.Server{Handler: http.HandlerFunc(handler), Protocols: protocols}
}

func interopServer() *grpc.Server {
	server := grpc.NewServer(orca.CallMetricsServerOption(nil))
	recorder := orca.NewServerMetricsRecorder()
	options := interop.NewTestServerOptions{MetricsRecorder: recorder}
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer(options))
	return server
}
