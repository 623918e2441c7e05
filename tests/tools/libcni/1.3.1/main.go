// The runtime side of CNI as the newest release has it.
package main

import (
	"context"

	runtime "balancing.elf.io/tests/tools/libcni"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func gc(config *libcni.CNIConfig, list *libcni.NetworkConfigList, request *runtime.Request) error {
	args := &libcni.GCArgs{}
	for _, valid := range request.ValidAttachments {
		attachment := types.GCAttachment{ContainerID: valid.ContainerID, IfName: valid.IfName}
		args.ValidAttachments = append(args.ValidAttachments, attachment)
	}
	return config.GCNetworkList(context.Background(), list, args)
}

func status(config *libcni.CNIConfig, list *libcni.NetworkConfigList, _ *runtime.Request) error {
	return config.GetStatusNetworkList(context.Background(), list)
}

func main() {
	runtime.Main(map[string]runtime.More{"GC": gc, "STATUS": status})
}
