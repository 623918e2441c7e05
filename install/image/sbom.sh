#!/usr/bin/env bash
# The software bill of materials of an image, as CycloneDX 1.5: the crates of the binaries and of the BPF objects in them,
# with the checksums of Cargo.lock; Rust's own libraries; and the packages of the distribution.
#
#   install/image/sbom.sh ARCH PACKAGES      PACKAGES: lines of name, version, licenses, distribution
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(install/image/target.sh "$1")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# tree TARGET PACKAGES...: name, version and license, with tabs, of what they are built from.
tree() {
    cargo tree --locked --target "$1" -e normal --prefix none --format '{p}	{l}' "${@:2}" |
        sed -E 's/ \(\*\)//; s/^([^ ]+) v([^ 	]+)[^	]*/\1	\2/' | awk NF
}
crates() {
    {
        tree "$target" -p balancing-agent -p balancing-ctl -p balancing-cni
        tree bpfel-unknown-none -p balancing-programs
    } | sort -u
}
# Name, version and checksum of what comes from the registry.
checksums() {
    awk -F'"' '/^name/ { n = $2 } /^version/ { v = $2 } /^checksum/ { print n "\t" v "\t" $2 }' Cargo.lock
}
# The compiler that bpf/dataplane/build.rs takes for the BPF objects; core comes from its sources.
bpf_compiler() {
    local sysroot
    if sysroot=$(rustup run nightly rustc --print sysroot 2>/dev/null) && [ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ]; then
        rustup run nightly rustc --version
    else
        /usr/bin/rustc --version
    fi
}
release() { sed -E 's/^rustc ([^ ]+).*/\1/'; }
jq -n --rawfile crates <(crates) --rawfile sums <(checksums) --rawfile packages "$2" --arg version "$version" \
    --arg std "$(rustc --version | release)" --arg core "$(bpf_compiler | release)" '
    def rows: split("\n") | map(select(. != "") | split("\t"));
    ($sums | rows | map({key: "\(.[0]) \(.[1])", value: .[2]}) | from_entries) as $known |
    def crate: {type: "library", name: .[0], version: .[1], purl: "pkg:cargo/\(.[0])@\(.[1])"}
        + (if (.[2] // "") != "" then {licenses: [{expression: (.[2] | gsub("/"; " OR "))}]} else {} end)
        + ($known["\(.[0]) \(.[1])"] | if . then {hashes: [{alg: "SHA-256", content: .}]} else {} end);
    def rust(name; version; of): {type: "library", name: name, version: version, description: of,
        purl: "pkg:generic/rust/\(name)@\(version)", licenses: [{expression: "MIT OR Apache-2.0"}]};
    def package: {type: "library", name: .[0], version: .[1], purl: "pkg:deb/\(.[3])/\(.[0])@\(.[1] | gsub("\\+"; "%2B"))"}
        # The short names of a copyright file are not those of SPDX.
        + (if (.[2] // "") != "" then {licenses: (.[2] | split("; ") | map({license: {name: .}}))} else {} end);
    {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
     metadata: {component: {type: "container", name: "balancing", version: $version}},
     components: (($crates | rows | map(crate))
        + [rust("std"; $std; "linked into the binaries"), rust("core"; $core; "compiled into the BPF objects")]
        + ($packages | rows | map(package)))}'
