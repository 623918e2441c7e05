#!/usr/bin/env bash
# The licenses that a copyright file of Debian names, by their short names, separated by "; ". Nothing where the file is
# not in the machine-readable form.
#
#   install/image/licenses.sh FILE
set -euo pipefail

grep -qi '^Format:.*copyright-format' "$1" || exit 0
sed -n 's/^License:[[:space:]]*\([^[:space:]].*\)$/\1/p' "$1" | sed 's/[[:space:]]*$//' | sort -u | awk '{ printf "%s%s", (NR > 1 ? "; " : ""), $0 }'
