#!/usr/bin/env bash
# Static release binaries for one architecture. Only in the debug information of the BPF programs is the directory named in which
# they are built.
#
#   install/image/binaries.sh amd64|arm64 DIRECTORY
#
# They are linked against the C library without needing it: what was measured is what runs, also in an image that
# holds nothing else. For another architecture than the machine's: `tests/setup.sh cross`.
set -euo pipefail
cd "$(dirname "$0")/../.."

case $1 in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *) echo "no architecture $1: amd64 or arm64" >&2 && exit 64 ;;
esac
name=${target^^} name=${name//-/_}
home=${CARGO_HOME:-$HOME/.cargo}
remap="--remap-path-prefix=$PWD=/balancing --remap-path-prefix=$home=/cargo"
# Only what is made for the target: a build script runs on this machine.
export "CARGO_TARGET_${name}_RUSTFLAGS=-C target-feature=+crt-static $remap"
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$home=/cargo"
if [ "$target" != "$(rustc -vV | sed -n 's/^host: //p')" ]; then
    tools=${target/unknown-/}
    export "CARGO_TARGET_${name}_LINKER=$tools-gcc" "CC_${target//-/_}=$tools-gcc"
fi
cargo build --quiet --release --locked --target "$target" -p balancing-agent -p balancing-ctl -p balancing-cni
mkdir -p "$2"
for program in balancing-agent balancingctl balancing-cni; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/release/$program" "$2/"
done
