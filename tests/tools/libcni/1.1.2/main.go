// The runtime side of CNI as containerd 1.7 has it.
package main

import runtime "balancing.elf.io/tests/tools/libcni"

func main() { runtime.Main(nil) }
