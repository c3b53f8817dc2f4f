// Package gateway runs the Gateway API's own conformance suite for meshes against the Remora
// that is installed in the cluster of KUBECONFIG.
package gateway

import (
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Everything that a mesh can be asked: the extended features of meshes, and those of routes
// and of gRPC that the suite's tests of meshes name.
func everything() []features.FeatureName {
	all := features.SetsToNamesSet(
		features.MeshCoreFeatures,
		features.MeshExtendedFeatures,
		features.HTTPRouteCoreFeatures,
		features.HTTPRouteExtendedFeatures,
		features.GRPCRouteCoreFeatures,
		features.GRPCRouteExtendedFeatures,
	).UnsortedList()
	slices.Sort(all)
	return all
}

func TestMesh(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("no KUBECONFIG: nothing was tested")
	}
	options := conformance.DefaultOptions(t)
	options.NamespaceLabels = map[string]string{"remora.io/inject": "enabled"}
	options.GatewayClassName = ""
	options.SupportedFeatures = everything()
	options.ConformanceProfiles = []suite.ConformanceProfileName{
		suite.MeshHTTPConformanceProfileName,
		suite.MeshGRPCConformanceProfileName,
	}
	conformance.RunConformanceWithOptions(t, options)
}
