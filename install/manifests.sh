#!/usr/bin/env bash
# Prints the chart as plain manifests, for those without Helm: the defaults, or what is given.
#
#   install/manifests.sh [VALUES...]     arguments of `helm template`, such as --set nodeLocalDNS.enabled=true
#
# The namespace is first; CRDs are not in it, they come before: install/crds.
set -euo pipefail
cd "$(dirname "$0")/.."

namespace=balancing-system
helm=tests/tools/helm/bin/helm
[ -x "$helm" ] || helm=helm
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

cat <<END
# The chart install/chart with its default values, by \`make manifests\`. Edit the chart, not this file.
# First: kubectl apply --server-side -f install/crds
---
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
END
# Hooks are for helm test.
"$helm" template balancing install/chart --namespace "$namespace" --no-hooks "$@" 2>"$errors" || {
    cat "$errors" >&2
    exit 1
}
