#!/usr/bin/env bash
# The data plane's suites on another kernel, in a virtual machine.
#
#   tests/cluster/kernel.sh [SUITE...]     suites of tests/tests; those of sockets, proxy and tunnel by default
#
# KERNEL=5.15, 6.1, 6.12 (the default) or newest, and KEEP=1, as in run.sh. tests/cluster/build.sh has compiled the suites; they
# run there at the same path.
# Under emulation everything takes ten times as long: a suite that measures time can fail there and nowhere else.
# shellcheck disable=SC2034,SC2154  # the parts have the others
set -euo pipefail

# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
for part in pki control-plane machines disk nodes; do
    # shellcheck source=/dev/null
    source "$here/$part.sh"
done

nodes=0
runtime=none
cni=none
failed=()

keep() { echo "left running, in $work: nsenter --net=/run/netns/$netns ssh -i $work/pki/ssh root@$(address_of 1); tests/cluster/run.sh end $work"; }

# The suites, without what only a debugger reads, and what they call.
add_suites() {
    local there="$root$repository" name file
    mkdir -p "$there/target/debug/deps"
    git -C "$repository" ls-files -z | tar -C "$repository" --null -T - -cf - | tar -C "$there" -xf -
    for file in "$repository"/target/debug/*; do
        [ ! -f "$file" ] || [ ! -x "$file" ] || strip -o "$there/target/debug/${file##*/}" "$file"
    done
    for name in "${suites[@]}"; do
        file=$(awk -v name="$name" '$1 == name { print $2 }' "$repository/target/cluster/suites")
        [ -n "$file" ] || die "no suite '$name' in tests/tests"
        strip -o "$there/target/debug/deps/$name" "$file"
    done
}

# Waits for two CPUs to meet within a few instructions, which an emulated machine hardly does.
too_rare=names_hold_while_others_take_the_places_of_records

run_suite() {
    on 1 "cd $repository/tests && BALANCING_REQUIRE_KERNEL=1 CARGO_MANIFEST_DIR=$repository/tests timeout 1500 ../target/debug/deps/$1 --test-threads 2 --skip $too_rare" >"$work/log/$1" 2>&1
}

suites=("$@")
if [ $# = 0 ]; then
    mapfile -t suites < <(cd "$repository/tests/tests" && printf '%s\n' sockets_*.rs proxy_*.rs tunnel_*.rs | sed 's/\.rs$//')
fi
begin_run
create_network 1
make_keys 0
make_root "${KERNEL:-6.12}"
add_suites
finish_disk
seed 1 kernel ''
start_machine 1 3072
within 120 on 1 true
say "$(on 1 uname -r), $(on 1 'cat /sys/fs/cgroup/cgroup.controllers')"
for suite in "${suites[@]}"; do
    started=$SECONDS
    if run_suite "$suite"; then
        say "$suite: $(grep -h '^test result' "$work/log/$suite"), $((SECONDS - started)) s"
    else
        failed+=("$suite")
        say "$suite FAILED"
        grep -E '^test .* FAILED|panicked|^test result|error' -A2 "$work/log/$suite" | head -n 40 || true
    fi
done
say "$((${#suites[@]} - ${#failed[@]})) suites passed, ${#failed[@]} failed${failed:+: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
