// libcni 1.3.1 as a container runtime has it; built by tests/setup/go.sh.
module balancing.elf.io/tests/tools/libcni-1.3.1

go 1.24.2

tool balancing.elf.io/tests/tools/libcni-1.3.1

require (
	balancing.elf.io/tests/tools/libcni v0.0.0
	github.com/containernetworking/cni v1.3.1
)

require (
	go.opentelemetry.io/otel v1.29.0 // indirect
	go.opentelemetry.io/otel/trace v1.29.0 // indirect
)

replace balancing.elf.io/tests/tools/libcni => ../
