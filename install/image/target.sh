#!/usr/bin/env bash
# The compiler's name of an architecture.
#
#   install/image/target.sh amd64|arm64
set -euo pipefail

case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *) echo "no architecture $1: amd64 or arm64" >&2 && exit 64 ;;
esac
