#!/usr/bin/env bash
# The story on a directory, without Kubernetes. Started by demo.sh in namespaces of its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/demo/node.sh
. "$here/node.sh"

# The three requests that are repeated through the story.
ask_all() {
    run client kdig +short +timeout=2 @10.96.0.10 whoami.demo TXT
    run client curl -s -m 2 http://169.254.169.254/
    run client curl -s -m 2 http://10.96.0.80/
}

private_mounts
mkdir -p "$DEMO_CGROUP/host"
make_remote
write_conflist

title "A node with two pods, made by bridge + host-local + balancing-cni; Services live on another node"
make_pod client $client_uid
make_pod local $local_uid
serve_dns local "node-local cache in a pod on this node"
serve_http local 0.0.0.0:80 "the local pod"
serve_http local 0.0.0.0:8181 "the local metadata proxy"
serve_http local 0.0.0.0:8282 "the local metadata proxy, version 2"
echo "client $(pod_ip client), local $(pod_ip local)"
until_true "the cluster's DNS" answers "cluster DNS" "${DNS[@]}"
until_true "the Service" answers "another node" curl -s -m 2 http://10.96.0.80/

title "Before: no agent, everything goes where it is dialled"
ask_all

title "The agent starts on a directory: the policies of the documentation, DNS and metadata"
cp "$here"/directory/*.yaml "$objects/"
for seed in "$repository"/agent/core/tests/fixtures/seeds/*.yaml; do
    case $seed in
    *00-* | *01-* | *07-* | *08-* | *09-* | *10-*) cp "$seed" "$objects/" ;;
    esac
done
client_pod
local_pod True
start_agent
# shellcheck disable=SC2016
until_true "the pods to be adopted" eval '[ "$(balancingctl pods -o json | jq length)" = 2 ]'
run "" balancingctl status
run "" balancingctl policies

title "After: the same requests, answered on this node; the applications saw the addresses they dialled"
ask_all
run client curl -s -o /dev/null -w 'curl was connected to %{remote_ip}:%{remote_port}\n' http://10.96.0.80/
run host kdig +short +timeout=2 @10.96.0.10 whoami.demo TXT
run "" balancingctl frontends

title "A pod born now has its hooks before its first instruction: the plugin attached them"
cni del client $client_uid
ip netns del client
make_pod client $client_uid
ask_all
run "" balancingctl pods

title "Live change: the metadata policy now points at port 8282"
sed 's/8181/8282/' "$here/directory/metadata.yaml" | put metadata.yaml
until_true "the change" answers "version 2" curl -s -m 2 http://169.254.169.254/
run client curl -s -m 2 http://169.254.169.254/

title "Fall-back: the local pod is not ready; DNS goes to the cluster, 169.254.169.254 to the next layer, a BalancingPolicy"
local_pod False
until_true "the fall-back" answers "cluster DNS" "${DNS[@]}"
ask_all
run "" balancingctl policies
run "" balancingctl explain 169.254.169.254:80
local_pod True
until_true "the local cache" answers "node-local cache" "${DNS[@]}"
echo "The pod is ready again:"
run client "${DNS[@]}"

title "QoS: 5 local answers a second, the rest from the cluster"
sed 's/^spec:/spec:\n  qosLimit: 5/' "$here/directory/node-local-dns.yaml" | put node-local-dns.yaml
until_true "the limit" limited
run "" ask_20_times_in_a_second
run "" balancingctl frontends
cp "$here/directory/node-local-dns.yaml" "$objects/.dns" && mv "$objects/.dns" "$objects/node-local-dns.yaml"
until_true "the end of the limit" eval '! limited'

title "The agent is killed: nothing a user relies on stops"
crash "$agent_pid"
ask_all
run "" balancingctl status

title "Cleanup: one command, and everything goes where it is dialled again"
run "" balancing-agent cleanup
ask_all
printf '\nDone. Nothing is left on this machine.\n'
