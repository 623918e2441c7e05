#!/usr/bin/env bash
# Prints the chart as plain manifests, for those without Helm: the defaults, or what is given.
#
#   install/manifests.sh [--namespace NAMESPACE] [VALUES...]
#
# VALUES are arguments of `helm template`, such as --set nodeLocalDNS.enabled=true or -f values.yaml. The namespace is
# first (balancing-system unless another is given); CRDs are not in it, they come before: install/crds.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

namespace=balancing-system values=()
while [ $# -gt 0 ]; do
    case $1 in
        -n | --namespace) namespace=${2:?$1 needs a name} && shift ;;
        --namespace=*) namespace=${1#*=} ;;
        *) values+=("$1") ;;
    esac
    shift
done
helm=$root/tests/tools/helm/bin/helm
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
"$helm" template balancing "$root/install/chart" --namespace "$namespace" --no-hooks ${values[@]+"${values[@]}"} 2>"$errors" || {
    cat "$errors" >&2
    exit 1
}
