# What the plugin adds to a pod's start: pods on the first node one after another, with the node's chain and with the
# chain that it had before us, which a second handler of containerd reads. Median of PODS each. The order changes from
# pair to pair, and each pod is gone before the next one starts.
# shellcheck shell=bash disable=SC2154

# started_in NAME MORE: milliseconds from its creation until it runs.
started_in() {
    local begin
    begin=$(date +%s%N)
    pod "$1" 1 beginning probe-musl '[cluster-probe, pause]' '' "$2" | kubectl apply -f - >/dev/null
    kubectl wait --for=jsonpath='{.status.phase}'=Running "pod/$1" --timeout=60s >/dev/null || return 1
    echo $((($(date +%s%N) - begin) / 1000000))
    kubectl delete pod "$1" --grace-period=1 --timeout=60s >/dev/null
}

median() { sort -n | awk '{ all[NR] = $1 } END { print (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'; }

with_us() { started_in "t$turn" '' >>"$work/with"; }
without_us() { started_in "u$turn" 'runtimeClassName: plain' >>"$work/without"; }

prove() {
    local turn count=${PODS:-30}
    conflist 1 | put 1 'mkdir -p /etc/cni/plain.d && cat >/etc/cni/plain.d/10-plain.conflist'
    kubectl apply -f - >/dev/null <<P
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: plain}
handler: plain
P
    started_in warm-1 "" >/dev/null
    started_in warm-2 "runtimeClassName: plain" >/dev/null
    rm -f "$work/with" "$work/without"
    for turn in $(seq "$count"); do
        if [ $((turn % 2)) = 1 ]; then with_us && without_us; else without_us && with_us; fi || return 1
    done
    kubectl delete runtimeclass plain >/dev/null
    echo "median of $count: $(median <"$work/with") ms with us, $(median <"$work/without") ms without"
    awk -v with="$(median <"$work/with")" -v without="$(median <"$work/without")" \
        'BEGIN { printf "ratio %.3f\n", with / without; exit with > without * 1.1 }'
}
