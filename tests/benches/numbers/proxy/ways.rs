//! Ways from a client to a pod on another host, on one and the same underlay.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use balancing_dataplane::{
    model::Protocol::{Tcp, Udp},
    proxy,
};
use balancing_tests::{
    NetNs, address,
    proxied::{AtWork, Proxied, service},
    tunnel::fabric,
};
use balancing_tunnel::Filter;

use super::traffic::{self, Load};

/// Port of the proxy, and the pod.
const PORT: &str = "10.211.0.1:20080";
const POD: &str = "10.244.1.1:80";

/// kube-proxy's way of a Service with one endpoint: a verdict map leads to the service's chain, which draws an endpoint's chain, which marks what
/// has to be masqueraded and translates. Around it are the chains that every packet of a new connection passes.
const NFTABLES: &str = "
table ip shape {
  map ports {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 10.211.0.1 . tcp . 20080 : goto service }
  }
  map without_endpoints {
    type ipv4_addr . inet_proto . inet_service : verdict
  }
  map firewalled {
    type ipv4_addr . inet_proto . inet_service : verdict
  }
  chain to_masquerade {
    meta mark set meta mark or 0x4000
  }
  chain endpoint {
    ip saddr 10.244.1.1 jump to_masquerade
    meta l4proto tcp dnat to 10.244.1.1:80
  }
  chain service {
    numgen random mod 1 vmap { 0 : goto endpoint }
  }
  chain before {
    type filter hook prerouting priority -110;
    ct state new ip daddr . meta l4proto . th dport vmap @firewalled
  }
  chain forward {
    type filter hook forward priority -110;
    ct state new ip daddr . meta l4proto . th dport vmap @without_endpoints
  }
  chain prerouting {
    type nat hook prerouting priority -100;
    ip daddr . meta l4proto . th dport vmap @ports
  }
  chain postrouting {
    type nat hook postrouting priority 100;
    meta mark & 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
}
";

/// How packets get to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// By a route on the underlay, with the tunnel's MTU.
    Direct,
    /// By a route into the tunnel, without programs and filters.
    Tunnel,
    /// Through the tunnel to the proxy, with the programs at both ends.
    Proxy,
    /// Through the tunnel to kube-proxy's kind of DNAT.
    Nftables,
}

/// Three worlds of the same members: with the proxy, without it, and with rules of nftables in its place.
pub(super) struct Ways {
    proxy: World,
    tunnel: World,
    nftables: World,
    far: AtWork,
}

struct World {
    world: Proxied,
    pod: NetNs,
}

impl World {
    /// Members, a pod of the first one, and routes to it by the underlay.
    fn new(topic: &str) -> Self {
        let world = Proxied::new(topic);
        let pod = world.pod(1, 1);
        let client = world.host(2);
        client.sysctl("ipv4/ip_local_port_range", "1024 65535");
        client.ip(&["route", "add", "10.244.1.1", "via", "192.0.2.1", "mtu", "1450"]);
        Self { world, pod }
    }

    /// Lets only members in, as agents do. It would keep answers from the pod's own address out.
    fn with_filters(self) -> Self {
        let all = self.world.members.all();
        for host in &self.world.members.hosts {
            let set = || Filter::new().apply(&all, &fabric(), &host.own);
            assert!(host.namespace.run(set).expect("the filter is set").changed);
        }
        self
    }

    /// Takes the proxy away.
    fn without_proxy(topic: &str) -> Self {
        let made = Self::new(topic);
        let bpffs = made.world.server.bpffs.path();
        made.world.host(1).run(|| proxy::unload(bpffs)).expect("the proxy goes");
        made
    }

    fn measure(&self, load: Load, to: SocketAddr) -> f64 {
        traffic::measure(load, self.world.host(2), &self.pod, (to, address(POD)))
    }
}

impl Ways {
    pub(super) fn new() -> Self {
        let mut proxy = World::new("bench-proxy").with_filters();
        for protocol in [Tcp, Udp] {
            proxy.world.declare(PORT, protocol, &service(&[POD]));
        }
        let far = proxy.world.start_on(2, "bench-proxy-far");
        let tunnel = World::without_proxy("bench-tunnel");
        let route = ["route", "replace", "10.244.1.1", "via", "10.211.0.1", "dev", "balancing0", "onlink"];
        tunnel.world.host(2).ip(&route);
        let nftables = World::without_proxy("bench-nftables").with_filters();
        nft(nftables.world.host(1), NFTABLES);
        Self { proxy, tunnel, nftables, far }
    }

    /// What a load comes to on a way.
    pub(super) fn measure(&mut self, load: Load, way: Way) -> f64 {
        // As agents do every few seconds.
        for proxy in [&mut self.proxy.world.server.proxy, &mut self.far.proxy] {
            while !proxy.sweep().expect("the table can be read").complete {}
        }
        match way {
            Way::Direct => self.proxy.measure(load, address(POD)),
            Way::Tunnel => self.tunnel.measure(load, address(POD)),
            Way::Proxy => self.proxy.measure(load, address(PORT)),
            Way::Nftables => self.nftables.measure(load, address(PORT)),
        }
    }
}

fn nft(host: &NetNs, rules: &str) {
    let mut command = Command::new("nft");
    let mut child =
        host.run(|| command.args(["-f", "-"]).stdin(Stdio::piped()).spawn()).expect("there is nft");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(rules.as_bytes()).expect("nft reads");
    drop(input);
    assert!(child.wait().expect("nft ends").success(), "the rules are refused");
}
