package main

import (
	"context"
	"flag"
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// Soak cases: so many calls, of the sizes of large_unary.
const (
	soakCalls   = 40
	soakWorkers = 4
)

type call func(ctx context.Context, connection *grpc.ClientConn)

// plain makes a case of one that takes call options; with gzip it is run compressed.
func plain(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) call {
	return func(ctx context.Context, connection *grpc.ClientConn) {
		do(ctx, testgrpc.NewTestServiceClient(connection))
	}
}

func compressed(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) call {
	return func(ctx context.Context, connection *grpc.ClientConn) {
		do(ctx, testgrpc.NewTestServiceClient(connection), grpc.UseCompressor("gzip"))
	}
}

// The cases of grpc-go that need neither TLS nor credentials, by the names of
// its own client, and with the suffix _gzip those whose messages may be
// compressed (grpc-go has no cases *_compressed_*). Missing are orca_oob, whose
// server needs a setting that is internal to grpc-go, and pick_first_unary,
// for which grpc-go's server does not say who it is.
var cases = map[string]call{
	"empty_unary":                 plain(interop.DoEmptyUnaryCall),
	"large_unary":                 plain(interop.DoLargeUnaryCall),
	"large_unary_gzip":            compressed(interop.DoLargeUnaryCall),
	"client_streaming":            plain(interop.DoClientStreaming),
	"client_streaming_gzip":       compressed(interop.DoClientStreaming),
	"server_streaming":            plain(interop.DoServerStreaming),
	"server_streaming_gzip":       compressed(interop.DoServerStreaming),
	"ping_pong":                   plain(interop.DoPingPong),
	"ping_pong_gzip":              compressed(interop.DoPingPong),
	"empty_stream":                plain(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  plain(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          plain(interop.DoCancelAfterBegin),
	"cancel_after_first_response": plain(interop.DoCancelAfterFirstResponse),
	"status_code_and_message":     plain(interop.DoStatusCodeAndMessage),
	"special_status_message":      plain(interop.DoSpecialStatusMessage),
	"custom_metadata":             plain(interop.DoCustomMetadata),
	"unimplemented_method": func(ctx context.Context, connection *grpc.ClientConn) {
		interop.DoUnimplementedMethod(ctx, connection)
	},
	"unimplemented_service": func(ctx context.Context, connection *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection))
	},
	"orca_per_rpc": func(ctx context.Context, connection *grpc.ClientConn) {
		interop.DoORCAPerRPCTest(ctx, testgrpc.NewTestServiceClient(connection))
	},
}

// rpc runs one case and ends with status 1 where it fails (the cases end the
// process themselves), or lists the cases.
func rpc(arguments []string) error {
	flags := flag.NewFlagSet("grpc", flag.ExitOnError)
	address := flags.String("address", "", "host:port to connect to")
	authority := flags.String("authority", "", "name of the service, where it is not the address")
	name := flags.String("case", "", "which case")
	list := flags.Bool("list", false, "write the names of all cases")
	timeout := flags.Duration("timeout", 30*time.Second, "for the whole case")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *list {
		fmt.Println(strings.Join(names(), "\n"))
		return nil
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
	}
	if strings.HasPrefix(*name, "orca_") {
		// The policy that reads load reports, as grpc-go's own script has it.
		options = append(options, grpc.WithDefaultServiceConfig(
			`{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`))
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+*address, options...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	connection, err := dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	switch one := cases[*name]; {
	case one != nil:
		one(ctx, connection)
	case *name == "rpc_soak":
		soak(ctx, *timeout, func() (*grpc.ClientConn, func()) { return connection, func() {} })
	case *name == "channel_soak":
		soak(ctx, *timeout, func() (*grpc.ClientConn, func()) {
			fresh, err := dial()
			if err != nil {
				panic(err)
			}
			return fresh, func() { fresh.Close() }
		})
	default:
		return fmt.Errorf("no case %q", *name)
	}
	return nil
}

func names() []string {
	all := []string{"rpc_soak", "channel_soak"}
	for name := range cases {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

func soak(ctx context.Context, timeout time.Duration, channel func() (*grpc.ClientConn, func())) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159,
		PerIterationMaxAcceptableLatency: 5 * time.Second,
		OverallTimeout:                   timeout,
		NumWorkers:                       soakWorkers,
		Iterations:                       soakCalls,
		ChannelForTest:                   channel,
	})
}
