#!/usr/bin/env bash
# Static release binaries for one architecture, the same wherever the repository and cargo's home lie.
#
#   install/image/binaries.sh amd64|arm64 DIRECTORY
#
# They are linked against the C library without needing it: what was measured is what runs, also in an image that
# holds nothing else. For another architecture than the machine's: `tests/setup.sh cross`.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(install/image/target.sh "$1")
name=${target^^} name=${name//-/_}
home=${CARGO_HOME:-$HOME/.cargo}
remap="--remap-path-prefix=$PWD=/balancing --remap-path-prefix=$home=/cargo"
# These two would stand above it, and the binaries would be dynamic without a word.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
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
    built=${CARGO_TARGET_DIR:-target}/$target/release/$program
    # What asks for a dynamic loader finds none, or another C library.
    headers=$(readelf --program-headers --wide "$built")
    if grep -q INTERP <<<"$headers"; then
        echo "$built is not linked statically" >&2
        exit 1
    fi
    install -m 755 "$built" "$2/"
done
