// Package runtime calls a chain of plugins as a container runtime does, through the libcni that the program is built with.
//
// Only what every generation of libcni has is called here; GC and STATUS are handed in by those that have them.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// Attachment is one of those that GC leaves alone.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Request is what stdin holds: one call of the runtime.
type Request struct {
	Verb             string         `json:"verb"`
	File             string         `json:"file"`
	BinDirs          []string       `json:"binDirs"`
	CacheDir         string         `json:"cacheDir"`
	ContainerID      string         `json:"containerID"`
	NetNS            string         `json:"netns"`
	IfName           string         `json:"ifname"`
	Args             [][2]string    `json:"args"`
	CapabilityArgs   map[string]any `json:"capabilityArgs"`
	ValidAttachments []Attachment   `json:"validAttachments"`
}

// More is a verb of newer generations.
type More func(*libcni.CNIConfig, *libcni.NetworkConfigList, *Request) error

// Main reads the request and prints {"result": ...}, {"error": ...} where the plugin's error arrived as one of CNI, or
// {"failure": "text"} where it did not.
func Main(more map[string]More) {
	answer := map[string]any{}
	result, err := run(more)
	var typed *types.Error
	switch {
	case errors.As(err, &typed):
		answer["error"] = typed
		answer["text"] = err.Error()
	case err != nil:
		answer["failure"] = err.Error()
	default:
		answer["result"] = result
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(more map[string]More) (types.Result, error) {
	var request Request
	if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
		return nil, err
	}
	list, err := libcni.ConfListFromFile(request.File)
	if err != nil {
		return nil, err
	}
	config := libcni.NewCNIConfigWithCacheDir(request.BinDirs, request.CacheDir, nil)
	call := &libcni.RuntimeConf{
		ContainerID:    request.ContainerID,
		NetNS:          request.NetNS,
		IfName:         request.IfName,
		Args:           request.Args,
		CapabilityArgs: request.CapabilityArgs,
	}
	ctx := context.Background()
	switch request.Verb {
	case "ADD":
		return config.AddNetworkList(ctx, list, call)
	case "CHECK":
		return nil, config.CheckNetworkList(ctx, list, call)
	case "DEL":
		return nil, config.DelNetworkList(ctx, list, call)
	case "VALIDATE":
		_, err := config.ValidateNetworkList(ctx, list)
		return nil, err
	}
	if verb, ok := more[request.Verb]; ok {
		return nil, verb(config, list, &request)
	}
	return nil, fmt.Errorf("this libcni has no %s", request.Verb)
}
