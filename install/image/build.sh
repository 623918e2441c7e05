#!/usr/bin/env bash
# The container image, without a daemon: an archive that `docker load`, `ctr images import`, `podman load` and
# `skopeo copy oci-archive:` read, and beside it the SBOM (CycloneDX).
#
#   install/image/build.sh [--arch amd64|arm64] [--tag NAME:TAG] [--out DIRECTORY]
#
# Files are sorted, owned by root and as old as the commit. The digest also depends on the compilers and on Debian's
# packages of the day, not on the directory.
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=amd64 tag='' out=target/image
while [ $# -gt 0 ]; do
    case $1 in
        --arch) arch=$2 ;;
        --tag) tag=$2 ;;
        --out) out=$2 ;;
        *) echo "unknown argument $1: see the head of $0" >&2 && exit 64 ;;
    esac
    shift 2
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
tag=${tag:-balancing:$version}
created=$(git log -1 --format=%ct 2>/dev/null || echo 0)
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pack DIRECTORY: a tar of it, the same whoever packs it and when.
pack() {
    tar -C "$1" --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --sort=name \
        --mtime="@$created" --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w -cf - .
}

# store FILE: puts it among the blobs and tells digest and size.
store() {
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$work/image/blobs/sha256/$digest"
    jq -cn --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$work/image/blobs/sha256/$digest")" '$ARGS.named'
}

install/image/binaries.sh "$arch" "$work/root/usr/local/bin"
install/image/nft.sh "$arch" "$work/root" >"$work/packages"
install/image/linked.sh "$arch" "$work/root" >>"$work/packages"
mkdir -p "$work/image/blobs/sha256" "$work/root/tmp" "$work/root/etc"
# What the C library asks for where a kubeconfig names the API server.
echo "hosts: files dns" >"$work/root/etc/nsswitch.conf"

pack "$work/root" >"$work/layer.tar"
content=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
gzip -n -9 "$work/layer.tar"
layer=$(store "$work/layer.tar.gz")
date=$(date -u -d "@$created" +%Y-%m-%dT%H:%M:%SZ)
jq -cn --arg arch "$arch" --arg created "$date" --arg version "$version" --arg content "sha256:$content" '{
    created: $created, architecture: $arch, os: "linux",
    config: {
        Entrypoint: ["/usr/local/bin/balancing-agent"], Cmd: ["run"], Env: ["PATH=/usr/local/bin:/usr/sbin:/usr/bin"],
        Labels: {"org.opencontainers.image.version": $version, "org.opencontainers.image.licenses": "Apache-2.0"}},
    rootfs: {type: "layers", diff_ids: [$content]},
    history: [{created: $created, created_by: "install/image/build.sh"}]}' >"$work/config"
config=$(store "$work/config")
jq -cn --argjson config "$config" --argjson layer "$layer" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: ({mediaType: "application/vnd.oci.image.config.v1+json"} + $config),
    layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip"} + $layer]}' >"$work/manifest"
manifest=$(store "$work/manifest")
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
jq -cn --argjson manifest "$manifest" --arg tag "$tag" --arg arch "$arch" '{
    schemaVersion: 2, manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json"} + $manifest + {
        platform: {architecture: $arch, os: "linux"},
        annotations: {"org.opencontainers.image.ref.name": $tag, "io.containerd.image.name": $tag}}]}' >"$work/image/index.json"
# Docker before 25 reads this list instead of the index.
jq -cn --argjson config "$config" --argjson layer "$layer" --arg tag "$tag" '
    def blob: "blobs/" + (.digest | sub(":"; "/"));
    [{Config: ($config | blob), RepoTags: [$tag], Layers: [($layer | blob)]}]' >"$work/image/manifest.json"

pack "$work/image" >"$out/balancing-$arch.tar"
install/image/sbom.sh "$arch" "$work/packages" >"$out/balancing-$arch.sbom.json"
jq -r '"\(.digest)"' <<<"$manifest" >"$out/balancing-$arch.digest"
echo "$out/balancing-$arch.tar: $tag, $(cat "$out/balancing-$arch.digest"), $(stat -c %s "$out/balancing-$arch.tar") bytes"
