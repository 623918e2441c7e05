//! Pods, Nodes and Services.

use balancing_abi::model::Protocol;

use super::{messages, yaml};
use crate::{
    manifest::Manifest,
    objects::{Addresses, ContainerPort, Node, Object, Pod, PortRef, Service, ServicePort},
};

fn ips(list: &[&str]) -> Addresses {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn pod(manifest: &Manifest) -> &Pod {
    let [Object::Pod(pod)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    pod
}

fn node(manifest: &Manifest) -> &Node {
    let [Object::Node(node)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    node
}

fn service(manifest: &Manifest) -> &Service {
    let [Object::Service(service)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    service
}

fn container_port(name: &str, port: u16, host_port: Option<u16>, protocol: Protocol) -> ContainerPort {
    ContainerPort { name: name.into(), port, host_port, protocol }
}

#[test]
fn a_whole_pod() {
    let manifest = yaml(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  uid: 8c9b
  labels: {app: web}
  annotations: {balancing.elf.io/redirect: disabled, other: x}
  ownerReferences: [{kind: StatefulSet}]
spec:
  nodeName: n1
  initContainers:
  - {name: once, ports: [{containerPort: 1}]}
  - {name: sidecar, restartPolicy: Always, ports: [{containerPort: 15001, name: mesh}]}
  containers:
  - name: web
    ports:
    - {containerPort: 80, name: http, hostPort: 8080}
    - {containerPort: 53, protocol: UDP, hostPort: 0}
    - {containerPort: 99, protocol: SCTP}
  - {name: without}
status:
  phase: Running
  conditions: [{type: Initialized, status: "False"}, {type: Ready, status: "True"}]
  containerStatuses:
  - {name: web, containerID: "containerd://57620ecf", state: {running: {startedAt: "2026-01-01T00:00:00Z"}}}
  - {name: done, containerID: "containerd://6c319c0a", state: {terminated: {exitCode: 0}}}
  - {name: starting, state: {waiting: {reason: ContainerCreating}}}
  - {name: without, containerID: "", state: {running: {}}}
  initContainerStatuses:
  - {name: once, containerID: "containerd://4be8b701", state: {terminated: {exitCode: 0}}}
  - {name: sidecar, containerID: "containerd://fea3e9b4", state: {running: {}}}
  podIP: 10.0.0.9
  podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}, {ip: "::ffff:10.0.0.2"}]
  hostIP: 192.0.2.9
  hostIPs: [{ip: 192.0.2.1}]
"#,
    );
    assert_eq!(messages(&manifest), [""; 0]);
    assert_eq!(
        *pod(&manifest),
        Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
            uid: "8c9b".into(),
            static_uid: None,
            labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
            node: "n1".into(),
            host_network: false,
            ready: true,
            terminating: false,
            finished: false,
            ips: ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]),
            host_ips: ips(&["192.0.2.1"]),
            ports: vec![
                container_port("http", 80, Some(8080), Protocol::Tcp),
                container_port("", 53, None, Protocol::Udp),
                container_port("mesh", 15001, None, Protocol::Tcp),
            ],
            redirect_disabled: true,
            containers: vec!["57620ecf".into(), "fea3e9b4".into()],
            container_ended: false,
        }
    );
}

#[test]
fn a_pod_with_nothing_but_a_name() {
    let manifest = yaml("{apiVersion: v1, kind: Pod, metadata: {name: a}}");
    assert_eq!(*pod(&manifest), Pod { namespace: "default".into(), name: "a".into(), ..Pod::default() });
    let manifest = yaml(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: null}, spec: {containers: null}, status: null}",
    );
    assert_eq!(*pod(&manifest), Pod { namespace: "default".into(), name: "a".into(), ..Pod::default() });
}

#[test]
fn states_of_a_pod() {
    let state = |metadata: &str, status: &str| {
        let text =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a {metadata}}}, status: {{{status}}}}}");
        let manifest = yaml(&text);
        let pod = pod(&manifest);
        (pod.ready, pod.terminating, pod.finished)
    };
    assert_eq!(state("", "conditions: [{type: Ready, status: 'True'}]"), (true, false, false));
    assert_eq!(state("", "conditions: [{type: Ready, status: 'False'}]"), (false, false, false));
    assert_eq!(state("", "conditions: [{type: Ready, status: Unknown}]"), (false, false, false));
    assert_eq!(state(", deletionTimestamp: '2026-01-01T00:00:00Z'", ""), (false, true, false));
    assert_eq!(state(", deletionTimestamp: null", ""), (false, false, false));
    assert_eq!(state("", "phase: Succeeded"), (false, false, true));
    assert_eq!(state("", "phase: Failed"), (false, false, true));
}

#[test]
fn a_mirror_tells_the_uid_of_its_static_pod() {
    let uid = |annotations: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, uid: u, annotations: {{{annotations}}}}}}}"
        );
        pod(&yaml(&text)).node_uid().to_owned()
    };
    let (mirror, sum) = ("kubernetes.io/config.mirror: x", "9f86d081884c7d659a2feaa0c55ad015");
    assert_eq!(uid(&format!("{mirror}, kubernetes.io/config.hash: {sum}")), sum);
    assert_eq!(uid(&format!("kubernetes.io/config.hash: {sum}")), "u", "no mirror");
    // Nobody can claim the UID of a pod that the API server made.
    for other in ["0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0", "", "x", &sum.to_uppercase(), &sum[1..]] {
        assert_eq!(uid(&format!("{mirror}, kubernetes.io/config.hash: '{other}'")), "u", "{other}");
    }
    assert_eq!(uid(&format!("{mirror}, kubernetes.io/config.hash: 7")), "u");
}

#[test]
fn single_addresses_of_a_pod_count_when_there_is_no_list() {
    let manifest = yaml(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: 10.0.0.1, hostIP: 10.0.0.2, podIPs: []}}",
    );
    assert_eq!(pod(&manifest).ips, ips(&["10.0.0.1"]));
    assert_eq!(pod(&manifest).host_ips, ips(&["10.0.0.2"]));
}

#[test]
fn ports_of_the_host_network_are_host_ports() {
    let manifest = yaml(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, \
         spec: {hostNetwork: true, containers: [{ports: [{containerPort: 80}, {containerPort: 81, hostPort: 81}]}]}}",
    );
    let pod = pod(&manifest);
    assert!(pod.host_network);
    assert_eq!(
        pod.ports,
        [container_port("", 80, Some(80), Protocol::Tcp), container_port("", 81, Some(81), Protocol::Tcp)]
    );
}

#[test]
fn bad_values_of_a_pod_are_left_out_and_named() {
    let manifest = yaml(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b, annotations: {balancing.elf.io/redirect: false}}, \
         spec: {containers: [{ports: [{containerPort: 0}, {containerPort: 70000}, {containerPort: 1, protocol: tcp}, \
         {containerPort: 2, hostPort: -1}, {containerPort: 3}]}]}, \
         status: {podIPs: [{ip: 10.0.0.300}, {ip: 10.0.0.1}]}}",
    );
    let found = pod(&manifest);
    assert_eq!(found.ports, [container_port("", 3, None, Protocol::Tcp)]);
    assert_eq!(found.ips, ips(&["10.0.0.1"]));
    assert!(!found.redirect_disabled);
    let port = "must be a port from 1 to 65535";
    assert_eq!(
        messages(&manifest),
        [
            format!("Pod b/a: spec.containers[0].ports[0].containerPort: {port}, found 0; it is left out"),
            format!("Pod b/a: spec.containers[0].ports[1].containerPort: {port}, found 70000; it is left out"),
            "Pod b/a: spec.containers[0].ports[2].protocol: must be TCP, UDP or SCTP, found \"tcp\"; it is left out".into(),
            format!("Pod b/a: spec.containers[0].ports[3].hostPort: {port}, found -1; it is left out"),
            "Pod b/a: status.podIPs[0].ip: must be an IP address, found \"10.0.0.300\"; it is left out".into(),
            "Pod b/a: metadata.annotations[\"balancing.elf.io/redirect\"]: must be \"disabled\" or \"enabled\", \
             found false; it is left out"
                .into(),
        ]
    );
}

#[test]
fn a_node() {
    let manifest = yaml(
        r#"
apiVersion: v1
kind: Node
metadata:
  name: n1
  uid: 5c1e
  labels: {zone: a}
  annotations:
    balancing.elf.io/nodeProxyIpv4: 192.168.0.10
    balancing.elf.io/nodeProxyIpv6: fd00::10
spec: {podCIDRs: [10.1.3.0/24, "fd00:1::/64", nowhere]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: InternalIP, address: "2001:db8::1"}
  - {type: ExternalIP, address: 198.51.100.1}
  - {type: Hostname, address: n1}
"#,
    );
    assert_eq!(messages(&manifest), [""; 0]);
    assert_eq!(
        *node(&manifest),
        Node {
            name: "n1".into(),
            uid: "5c1e".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into_iter().collect(),
            ips: ips(&["192.0.2.1", "2001:db8::1"]),
            other_ips: ips(&["198.51.100.1"]),
            pod_networks: ["10.1.3.0/24", "fd00:1::/64"].map(|network| network.parse().unwrap()).into(),
            proxy_ips: ips(&["192.168.0.10", "fd00::10"]),
        }
    );
}

#[test]
fn proxy_addresses_have_their_family() {
    let proxies = |name: &str, value: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n, annotations: {{balancing.elf.io/{name}: {value}}}}}}}"
        );
        let manifest = yaml(&text);
        (node(&manifest).proxy_ips.len(), messages(&manifest))
    };
    let message = |name: &str, rule: &str, found: &str| {
        vec![format!(
            "Node n: metadata.annotations[\"balancing.elf.io/{name}\"]: {rule}, found {found}; it is left out"
        )]
    };
    assert_eq!(proxies("nodeProxyIpv4", "10.0.0.1"), (1, vec![]));
    assert_eq!(proxies("nodeProxyIpv4", "'::ffff:10.0.0.1'"), (1, vec![]));
    assert_eq!(proxies("nodeProxyIpv4", "''"), (0, vec![]));
    for (name, value, rule) in [
        ("nodeProxyIpv4", "\"fd00::1\"", "must be an IPv4 address"),
        ("nodeProxyIpv6", "\"10.0.0.1\"", "must be an IPv6 address"),
        ("nodeProxyIpv6", "\"::ffff:10.0.0.1\"", "must be an IPv6 address"),
        ("nodeProxyIpv4", "5", "must be an IPv4 address"),
        ("nodeProxyIpv4", "\"10.0.0.1/24\"", "must be a single IP address, not a network"),
        ("nodeProxyIpv4", "\"0.0.0.0\"", "must not be the unspecified address"),
    ] {
        assert_eq!(proxies(name, value), (0, message(name, rule, value)), "{name}: {value}");
    }
}

#[test]
fn a_whole_service() {
    let manifest = yaml(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {a: b}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00::96"]
  externalIPs: [198.51.100.7]
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353, nodePort: 30053}
  - {port: 99, protocol: SCTP}
  - {name: plain, port: 81, targetPort: 0}
status:
  loadBalancer: {ingress: [{ip: 203.0.113.1}, {hostname: lb.example.org}]}
"#,
    );
    assert_eq!(messages(&manifest), [""; 0]);
    let port = |name: &str, port, protocol, target| ServicePort { name: name.into(), port, protocol, target };
    assert_eq!(
        *service(&manifest),
        Service {
            namespace: "shop".into(),
            name: "web".into(),
            external_name: false,
            headless: false,
            cluster_ips: ips(&["10.96.0.1", "fd00::96"]),
            external_ips: ips(&["198.51.100.7"]),
            load_balancer_ips: ips(&["203.0.113.1"]),
            ports: vec![
                port("http", 80, Protocol::Tcp, PortRef::Name("web".into())),
                port("dns", 53, Protocol::Udp, PortRef::Number(5353)),
                port("plain", 81, Protocol::Tcp, PortRef::Number(81)),
            ],
        }
    );
}

#[test]
fn kinds_of_services() {
    let read = |spec: &str| {
        let manifest =
            yaml(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{{spec}}}}}"));
        assert_eq!(messages(&manifest), [""; 0], "{spec}");
        let service = service(&manifest);
        (service.headless, service.external_name, service.cluster_ips.len())
    };
    assert_eq!(read("clusterIP: 10.0.0.1"), (false, false, 1));
    assert_eq!(read("clusterIP: None"), (true, false, 0));
    assert_eq!(read("clusterIP: None, clusterIPs: [None]"), (true, false, 0));
    assert_eq!(read("clusterIP: ''"), (false, false, 0));
    assert_eq!(read("type: ExternalName, externalName: a.example.org"), (false, true, 0));
}

#[test]
fn bad_values_of_a_service_are_left_out_and_named() {
    let manifest = yaml(
        "{apiVersion: v1, kind: Service, metadata: {name: a}, \
         spec: {clusterIP: x, externalIPs: [y], ports: [{port: 0}, {port: 80, targetPort: 99999}, {port: 81, targetPort: [1]}]}}",
    );
    assert_eq!(service(&manifest).ports, []);
    let fields: Vec<_> = manifest.problems.iter().map(|p| p.message.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "spec.clusterIPs[0]",
            "spec.externalIPs[0]",
            "spec.ports[0].port",
            "spec.ports[1].targetPort",
            "spec.ports[2].targetPort"
        ]
    );
}
