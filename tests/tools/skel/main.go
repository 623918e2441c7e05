// A plugin that accepts every call that the reference skeleton lets through, and prints what it understood: the oracle of
// the differential test.
package main

import (
	"encoding/json"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// What container runtimes tell about a pod.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
}

type understood struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	PodUID      string `json:"podUid"`
	Namespace   string `json:"podNamespace"`
	Name        string `json:"podName"`
}

// call takes the configuration and the arguments apart, as a chained plugin does.
func call(needsResult bool) func(*skel.CmdArgs) error {
	return func(call *skel.CmdArgs) error {
		var config types.NetConf
		if err := json.Unmarshal(call.StdinData, &config); err != nil {
			return types.NewError(types.ErrDecodingFailure, err.Error(), "")
		}
		if err := version.ParsePrevResult(&config); err != nil {
			return types.NewError(types.ErrDecodingFailure, err.Error(), "")
		}
		if needsResult && config.PrevResult == nil {
			return types.NewError(types.ErrInvalidNetworkConfig, "no prevResult", "")
		}
		var args podArgs
		if err := types.LoadArgs(call.Args, &args); err != nil {
			return types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
		}
		return json.NewEncoder(os.Stdout).Encode(understood{
			call.ContainerID, call.IfName,
			string(args.K8S_POD_UID), string(args.K8S_POD_NAMESPACE), string(args.K8S_POD_NAME),
		})
	}
}

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    call(true),
		Del:    call(false),
		Check:  call(false),
		GC:     func(*skel.CmdArgs) error { return nil },
		Status: func(*skel.CmdArgs) error { return nil },
	}, version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "oracle")
}
