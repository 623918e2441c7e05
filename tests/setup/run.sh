# Part `run`: the programs that the demo, the tests and the bench call.
# shellcheck shell=bash disable=SC2154
#
# dnsmasq is a small real DNS server, kdig its client; strace counts system calls for the bench, tcpdump
# shows the packets of a tunnel.

programs=(ip:iproute2 mount:mount nsenter:util-linux busybox:busybox jq:jq curl:curl openssl:openssl dnsmasq:dnsmasq-base
    kdig:knot-dnsutils strace:strace nft:nftables tcpdump:tcpdump)

ready() { has_commands "${programs[@]}"; }
install() { need_commands "${programs[@]}"; }
