// libcni 1.1.2 as a container runtime has it; built by tests/setup/go.sh.
module balancing.elf.io/tests/tools/libcni-1.1.2

go 1.24.2

tool balancing.elf.io/tests/tools/libcni-1.1.2

require balancing.elf.io/tests/tools/libcni v0.0.0

require github.com/containernetworking/cni v1.1.2 // indirect

replace balancing.elf.io/tests/tools/libcni => ../
