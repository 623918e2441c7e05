//! Members of a fabric as network namespaces on one switch.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use balancing_core::membership::mac_of;
use balancing_tunnel::{
    AcceptFrom, Applied, Conflict, Deletions, Fabric, Mac, Member, Netlink, Pair, Plan, plan,
};
use ipnetwork::IpNetwork;

mod packet;

pub use packet::Packet;
pub(crate) use packet::checksum;

use crate::{NetNs, must::Must, wait_until};

/// How long a packet may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fabric of these tests: VNI and port 7710, pools 10.211.0.0/16 and fd11::/112.
#[must_use]
pub fn fabric() -> Fabric {
    Fabric {
        name: "default".into(),
        vni: 7710,
        port: 7710,
        ipv4_pool: "10.211.0.0/16".parse().ok(),
        ipv6_pool: "fd11::/112".parse().ok(),
        mtu: None,
        accept_from: AcceptFrom::Members,
    }
}

/// Families of a member's underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Both,
}

/// Member number `n` as its peers know it: 192.0.2.n and 2001:db8::n dialled, 10.211.x.y and fd11::n inside.
#[must_use]
pub fn member(n: u16, dialled: Dialled) -> Member {
    let [high, low] = n.to_be_bytes();
    let name = format!("node.n{n}");
    Member {
        underlay: Pair {
            v4: (dialled != Dialled::Ipv6).then(|| Ipv4Addr::new(192, 0, 2u8.wrapping_add(high), low)),
            v6: (dialled != Dialled::Ipv4).then(|| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)),
        },
        port: 7710,
        mac: Mac(mac_of("default", &name)),
        addresses: Pair {
            v4: Some(Ipv4Addr::new(10, 211, high, low)),
            v6: Some(Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, 0, n)),
        },
        mtu: 0,
        name,
    }
}

/// A member's host.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace, with the underlay on `eth0`.
    pub namespace: NetNs,
    /// Its handle on the kernel.
    pub netlink: Netlink,
    /// What its peers know of it.
    pub own: Member,
    changed: Arc<AtomicUsize>,
}

impl Host {
    /// A host in a namespace that is already set up.
    #[must_use]
    pub fn new(namespace: NetNs, own: Member) -> Self {
        let changed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&changed);
        let start = || Netlink::start(move || _ = count.fetch_add(1, Ordering::Relaxed));
        let netlink = namespace.run(start).must("start netlink");
        Self { namespace, netlink, own, changed }
    }

    /// Makes the plan for these peers.
    ///
    /// # Errors
    /// The plan's conflicts.
    pub fn plan(&self, fabric: &Fabric, peers: &[Member]) -> Result<Plan, Conflict> {
        plan(fabric, &self.own, peers, &self.netlink.facts().must("read facts"))
    }

    /// Plans and applies, deletions allowed.
    #[must_use]
    pub fn apply(&self, peers: &[Member]) -> Applied {
        let plan = self.plan(&fabric(), peers).must("plan");
        self.netlink.apply(&plan, Deletions::Allowed).must("apply")
    }

    /// Times that it was told of a change.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changed.load(Ordering::Relaxed)
    }

    /// Whether an address answers an echo request.
    #[must_use]
    pub fn pings(&self, address: IpAddr) -> bool {
        self.pings_with(address, &["-c", "1", "-W", "2"])
    }

    /// Waits until an address answers. The kernel answers that an IPv6 address is there before a work queue of its makes
    /// the route to it; until then the first packets are lost.
    ///
    /// # Panics
    /// At the caller's line, when it does not.
    #[track_caller]
    pub fn wait_for(&self, address: IpAddr) {
        wait_until(PATIENCE, || self.pings(address));
    }

    /// Whether an address answers, with more options of ping.
    #[must_use]
    pub fn pings_with(&self, address: IpAddr, options: &[&str]) -> bool {
        let mut command = Command::new("busybox");
        command
            .arg("ping")
            .args(options)
            .arg(address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.namespace.run(|| command.status()).must("run busybox ping").success()
    }

    /// The output of `ip` or `bridge` in its namespace, with several arguments in one text.
    #[must_use]
    pub fn show(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().must("name a program"));
        let output = self.namespace.run(|| program.args(words).output()).must("run iproute2");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Members on a switch.
#[derive(Debug)]
pub struct Members {
    /// Where the underlays meet: bridge `br0` with a port `pN` for each member.
    pub switch: NetNs,
    /// In the order of their numbers, from 1.
    pub hosts: Vec<Host>,
}

impl Members {
    /// One host for each, not yet in the fabric.
    #[must_use]
    pub fn new(dialled: &[Dialled]) -> Self {
        let switch = NetNs::new();
        switch.ip(&["link", "add", "br0", "type", "bridge"]);
        switch.ip(&["link", "set", "br0", "up"]);
        let hosts = (1..).zip(dialled).map(|(n, &dialled)| join(&switch, member(n, dialled))).collect();
        Self { switch, hosts }
    }

    /// What peers know of each other.
    #[must_use]
    pub fn all(&self) -> Vec<Member> {
        self.hosts.iter().map(|host| host.own.clone()).collect()
    }

    /// The IPv4 and the IPv6 tunnel address of a member.
    #[must_use]
    pub fn inside(&self, n: usize) -> [IpAddr; 2] {
        let Pair { v4, v6 } = self.hosts[n - 1].own.addresses;
        [v4.must("have an IPv4 address").into(), v6.must("have an IPv6 address").into()]
    }

    /// Brings every host into the fabric.
    pub fn apply(&self) {
        let all = self.all();
        for host in &self.hosts {
            let applied = host.apply(&all);
            let problems: Vec<_> =
                applied.problems.iter().filter(|problem| !problem.contains("forward")).collect();
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    /// Proves that ICMP, TCP and UDP pass between all pairs, over both inner families.
    pub fn prove_all_pairs(&self) {
        for (from, to) in self.hosts.iter().flat_map(|from| self.hosts.iter().map(move |to| (from, to))) {
            for address in to.own.addresses.iter() {
                from.wait_for(address);
                prove_tcp_and_udp(from, to, address);
            }
        }
    }
}

/// A host with its underlay on the switch.
fn join(switch: &NetNs, own: Member) -> Host {
    let namespace = NetNs::new();
    let port = format!("p{}", own.name.trim_start_matches("node.n"));
    namespace.join("eth0", switch, &port);
    switch.ip(&["link", "set", &port, "master", "br0"]);
    for address in own.underlay.iter() {
        let network = IpNetwork::new(address, if address.is_ipv4() { 24 } else { 64 }).must("make a network");
        namespace.add_address(&network.to_string(), "eth0");
    }
    Host::new(namespace, own)
}

/// Proves that TCP and UDP pass, with the tunnel address as source.
fn prove_tcp_and_udp(from: &Host, to: &Host, address: IpAddr) {
    let source = from.own.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
    let any = SocketAddr::new(address, 0);
    let (listener, server) = to.namespace.run(|| (TcpListener::bind(any), UdpSocket::bind(any)));
    let (listener, server) = (listener.must("listen"), server.must("bind"));
    let target = listener.local_addr().must("learn the port");
    let serve = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().must("accept");
        stream.write_all(&[7; 100_000]).must("send");
        peer.ip()
    });
    let mut stream =
        from.namespace.run(|| TcpStream::connect_timeout(&target, PATIENCE)).must("connect by TCP");
    stream.set_read_timeout(Some(PATIENCE)).must("set a deadline");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).must("receive");
    assert_eq!(received.len(), 100_000);
    assert_eq!(Some(serve.join().must_join()), source);

    let unspecified: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let client = from.namespace.run(|| UdpSocket::bind(unspecified)).must("bind");
    client.send_to(b"hello", server.local_addr().must("learn the port")).must("send");
    server.set_read_timeout(Some(PATIENCE)).must("set a deadline");
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).must("receive by UDP");
    assert_eq!((&buffer[..length], Some(peer.ip())), (&b"hello"[..], source));
}

trait MustJoin<T> {
    fn must_join(self) -> T;
}

impl<T> MustJoin<T> for thread::Result<T> {
    fn must_join(self) -> T {
        self.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
