# Part `image`: what unpacks packages of the distribution for the container image. Only `make image` and `make deb` need it.
# shellcheck shell=bash disable=SC2154

programs=(mmdebstrap:mmdebstrap readelf:binutils jq:jq)

ready() { has_commands "${programs[@]}"; }
install() { need_commands "${programs[@]}"; }
