#!/usr/bin/env bash
# The software bill of materials of an image, as CycloneDX 1.5: the crates that are linked into the binaries, with the
# checksums of Cargo.lock, and the packages of the distribution.
#
#   install/image/sbom.sh ARCH PACKAGES      PACKAGES: lines of name, version, license
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(install/image/target.sh "$1")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Tabs between name, version and license.
crates() {
    cargo tree --locked --target "$target" -e normal --prefix none --format '{p}	{l}' -p balancing-agent -p balancing-ctl -p balancing-cni |
        sed -E 's/ \(\*\)//; s/^([^ ]+) v([^ 	]+)[^	]*/\1	\2/' | sort -u | awk NF
}
# Name, version and checksum of what comes from the registry.
checksums() {
    awk -F'"' '/^name/ { n = $2 } /^version/ { v = $2 } /^checksum/ { print n "\t" v "\t" $2 }' Cargo.lock
}
jq -n --rawfile crates <(crates) --rawfile sums <(checksums) --rawfile packages "$2" --arg version "$version" '
    def rows: split("\n") | map(select(. != "") | split("\t"));
    ($sums | rows | map({key: "\(.[0]) \(.[1])", value: .[2]}) | from_entries) as $known |
    def crate: {type: "library", name: .[0], version: .[1], purl: "pkg:cargo/\(.[0])@\(.[1])"}
        + (if (.[2] // "") != "" then {licenses: [{expression: (.[2] | gsub("/"; " OR "))}]} else {} end)
        + ($known["\(.[0]) \(.[1])"] | if . then {hashes: [{alg: "SHA-256", content: .}]} else {} end);
    def package: {type: "library", name: .[0], version: .[1], purl: "pkg:deb/debian/\(.[0])@\(.[1])"};
    {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
     metadata: {component: {type: "container", name: "balancing", version: $version}},
     components: (($crates | rows | map(crate)) + ($packages | rows | map(package)))}'
