// libcni 1.3.0 as a container runtime has it; built by tests/setup/go.sh.
module balancing.elf.io/tests/tools/libcni-1.3.0

go 1.24.2

tool balancing.elf.io/tests/tools/libcni-1.3.0

require (
	balancing.elf.io/tests/tools/libcni v0.0.0
	github.com/containernetworking/cni v1.3.0
)

replace balancing.elf.io/tests/tools/libcni => ../
