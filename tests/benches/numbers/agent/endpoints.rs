//! One endpoint of many changes: a Service with ten ports and both families, so twenty backend sets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use balancing_tests::{Node, Object};

use super::{MAX_BACKENDS, calls::count_bpf, milliseconds, wait_until};
use crate::{Report, median, plane::Kernel};

const PORTS: u16 = 10;
const CHANGES: u16 = 21;
/// What the agent still does after a change, such as freeing old sets, is over.
const SETTLE: Duration = Duration::from_millis(300);
/// A change of tables that are memory needs no system call; a grace period or a policy's name may need a few.
const CALLS: f64 = 10.0;

pub(super) fn measure(report: &mut Report) {
    let (large, small) =
        (Service { name: "large", net: 1, pods: 1_000 }, Service { name: "small", net: 2, pods: 100 });
    let mut node = Node::with("bench-endpoints", &MAX_BACKENDS);
    for service in [&large, &small] {
        service.apply(&node);
    }
    node.start();
    let kernel = Kernel::open(node.bpffs());
    for service in [&large, &small] {
        let mut times: Vec<f64> = (1..=CHANGES).map(|round| service.change(&node, &kernel, round)).collect();
        let name = format!(
            "one endpoint of {} changes, {PORTS} ports, both families (median of {CHANGES})",
            service.pods
        );
        match service.pods {
            1_000 => report.at_most(&name, median(&mut times), "ms", 20.0),
            _ => report.tell(&name, median(&mut times), "ms"),
        }
    }
    let counted = [&large, &small].map(|service| {
        count_bpf(node.agent().pid(), || {
            service.change(&node, &kernel, CHANGES + 1);
            sleep(SETTLE);
        })
    });
    let [Some(large), Some(small)] = counted else {
        eprintln!("system calls are not counted: there is no strace, or it must not trace");
        return;
    };
    report.at_most("bpf(2) calls of the agent when one endpoint of 1,000 changes", large, "calls", CALLS);
    report.at_most("bpf(2) calls of the agent when one endpoint of 100 changes", small, "calls", CALLS);
}

/// A Service with pods, and the policy that balances over them.
struct Service {
    name: &'static str,
    net: u8,
    pods: u16,
}

impl Service {
    fn apply(&self, node: &Node) {
        let named: Vec<String> = (1..=PORTS).map(|port| format!("p{port}")).collect();
        let ports: Vec<(&str, u16)> = named.iter().map(String::as_str).zip(80..).collect();
        let addresses = self.cluster_ips().map(|ip| ip.to_string());
        let service = Object::service(self.name, &[&addresses[0], &addresses[1]], &ports);
        node.apply_text(&format!("service-{}.json", self.name), &service.json());
        let policy = Object::balancing(&format!("balance-{}", self.name), "", 80, self.name);
        node.apply(&policy.for_service(self.name));
        let pods = Object::list((1..self.pods).map(|number| self.pod(number, number)));
        node.apply_text(&format!("pods-{}.json", self.name), &pods.json());
        node.apply(&self.pod(0, self.pods));
    }

    /// Milliseconds from a pod's file until all twenty frontends have its new address.
    fn change(&self, node: &Node, kernel: &Kernel, round: u16) -> f64 {
        let number = self.pods + round;
        let pod = self.pod(0, number);
        let has = |frontend: SocketAddr| {
            kernel.backends(frontend).contains(&self.addresses(number)[usize::from(frontend.is_ipv6())])
        };
        let start = Instant::now();
        node.apply(&pod);
        // To look costs about as much as to write, so the one that is written last is looked for first.
        let mut frontends: Vec<SocketAddr> = self.frontends().collect();
        frontends.sort_unstable();
        let mut done = start;
        for frontend in frontends.into_iter().rev() {
            if !has(frontend) {
                done = wait_until("an endpoint", || has(frontend));
            }
        }
        milliseconds(done - start)
    }

    /// A pod with the addresses of some number.
    fn pod(&self, pod: u16, address: u16) -> Object {
        let addresses = self.addresses(address).map(|ip| ip.to_string());
        Object::pod(&format!("{}-{pod}", self.name), self.name, &[&addresses[0], &addresses[1]])
    }

    fn addresses(&self, number: u16) -> [IpAddr; 2] {
        let v4 = Ipv4Addr::from_bits(0x0b00_0000 + (u32::from(self.net) << 16) + u32::from(number));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xb, self.net.into(), 0, 0, 0, number);
        [v4.into(), v6.into()]
    }

    fn cluster_ips(&self) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, self.net.into());
        [Ipv4Addr::new(10, 96, 0, self.net).into(), v6.into()]
    }

    fn frontends(&self) -> impl Iterator<Item = SocketAddr> {
        self.cluster_ips()
            .into_iter()
            .flat_map(|ip| (80..80 + PORTS).map(move |port| SocketAddr::new(ip, port)))
    }
}
