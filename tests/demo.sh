#!/usr/bin/env bash
# The demos: a node with pods made by a real CNI chain, its Services elsewhere, and the agent between them.
#
#   tests/demo.sh [STORY]     stories are in tests/demo/: `directory` (the default), `kube` and `fabric`
#
# Everything lives in mount, process and network namespaces of its own, which the kernel removes with the
# last process, however the demo ends. Only cgroups have to be removed by hand; that is done here, and
# a demo that was killed is swept by the next one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || { echo "demo: needs root; run: make demo" >&2; exit 1; }
story=${1:-directory}
case $story in
directory | kube | fabric) ;;
*)
    echo "demo: no story '$story': use directory, kube or fabric" >&2
    exit 64
    ;;
esac

cgroup2=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
[ -n "$cgroup2" ] || { echo "demo: no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified" >&2; exit 1; }

# remove_cgroups NAME: the tree below, deepest first, once its processes are gone.
remove_cgroups() {
    local dir tries
    [ -d "$cgroup2/$1" ] || return 0
    for tries in $(seq 50); do
        while read -r dir; do rmdir "$dir" 2>/dev/null || true; done < <(find "$cgroup2/$1" -depth -type d)
        [ -d "$cgroup2/$1" ] || return 0
        sleep 0.1
    done
    echo "demo: $cgroup2/$1 is still in use after $tries tries" >&2
}

for stale in "$cgroup2"/balancing-demo-*; do
    [ -d "$stale" ] && [ ! -d "/proc/${stale##*-}" ] && remove_cgroups "${stale##*/}"
done

name=balancing-demo-$$
stage=
leave() {
    # The kernel ends everything in the process namespace with its first process.
    if [ -n "$stage" ]; then
        kill -KILL "$stage" 2>/dev/null || true
        wait "$stage" 2>/dev/null || true
    fi
    remove_cgroups "$name"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$cgroup2/$name"
# In the background, so that a signal is answered at once; it ends with this script even when that is killed.
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child=SIGKILL --mount-proc --propagation private \
    env DEMO_CGROUP="$cgroup2/$name" bash "$here/demo/$story.sh" &
stage=$!
wait "$stage"
