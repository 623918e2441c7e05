// What the programs of all generations share. It is built with the libcni of each of them.
module balancing.elf.io/tests/tools/libcni

go 1.24.2

require github.com/containernetworking/cni v1.1.2
