//! The data plane without an agent: programs, tables and links of a test, and a network to try them on.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use balancing_dataplane::{
    ABI,
    cgroup::CgroupDir,
    layout::Layout,
    links,
    loader::{self, HostScope, Loaded, Options, Sizes},
    model::{Backend, FrontendKey},
    tables::{self, Counters, Reader, Tables},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};

pub use balancing_dataplane::model::{Clients, Entry, Layer, Protocol};

use crate::{Bpffs, Cgroup, Client, EchoServer, Kind, NetNs, Place, must::Must};

/// Capacities of a test's tables: the smallest table of connections.
pub const SIZES: Sizes = Sizes {
    frontends: 4096,
    ids: 4096,
    backends: 16_384,
    connections: 65_536,
    affinity: 8192,
    skips: 1024,
    qos: 64,
    policies: 64,
};

/// What an application gets that is refused; before Linux 5.18 no program chooses it. By the kernel's version, so that it does not
/// depend on what the product finds out.
#[must_use]
pub fn refusal() -> Errno {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").must("read the kernel's version");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 18) { Errno::EHOSTUNREACH } else { Errno::EPERM }
}

/// Loaded programs, opened tables, links. Everything goes on drop.
pub struct DataPlane {
    /// The writer of the tables.
    pub tables: Tables,
    loaded: Loaded,
    layout: Layout,
    sizes: Sizes,
    // Last: dropping it removes the pins.
    _bpffs: Bpffs,
}

impl DataPlane {
    /// Programs and empty tables; nothing is attached. Programs of the host act on every socket.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self::with(topic, SIZES, HostScope::Everything)
    }

    /// As [`Self::new`], with other capacities and another scope of the host's programs.
    #[must_use]
    pub fn with(topic: &str, sizes: Sizes, host_scope: HostScope) -> Self {
        let bpffs = Bpffs::new(topic);
        let layout = Layout::new(bpffs.path(), ABI);
        let options = Options { layout: layout.clone(), sizes, host_scope };
        let loaded = loader::load(&options).must("load the data plane");
        let tables = Tables::open(&layout, sizes).must("open the tables");
        Self { tables, loaded, layout, sizes, _bpffs: bpffs }
    }

    /// The loaded programs: those for pods and those for the host.
    #[must_use]
    pub fn programs(&self) -> [&links::Programs; 2] {
        [&self.loaded.pods, &self.loaded.host]
    }

    /// Where the pins are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Attaches the programs for pods to a cgroup.
    pub fn attach_pod(&self, cgroup: &Cgroup) {
        self.attach(&self.loaded.pods, cgroup, "pod");
    }

    /// Attaches the programs for the host to a cgroup, which stands for the root here.
    pub fn attach_host(&self, cgroup: &Cgroup) {
        self.attach(&self.loaded.host, cgroup, "host");
    }

    fn attach(&self, programs: &links::Programs, cgroup: &Cgroup, kind: &str) {
        let directory = CgroupDir::open(cgroup.path()).must("open a cgroup");
        let pins = self.layout.pods().join(format!("{kind}-{}", cgroup.id()));
        links::attach(programs, &directory, &pins).must("attach the programs");
    }

    /// Ends redirection, as the first step of a removal.
    pub fn stop(&self) {
        tables::stop(&self.layout).must("stop the programs");
    }

    /// Redirects again, as an agent does that has filled the tables.
    pub fn resume(&mut self) {
        self.tables.resume();
    }

    /// Opens the tables anew, as an agent does that takes over. What was opened before is gone.
    pub fn take_over(&mut self) {
        self.tables = Tables::open(&self.layout, self.sizes).must("open the tables again");
    }

    /// The tables as a command sees them.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::open(&self.layout).must("open the tables for reading")
    }

    /// Counters of a frontend's layer; zero when there is none.
    #[must_use]
    pub fn counters(&self, key: FrontendKey, layer: u8) -> Counters {
        let layers = self.reader().layers().must("read the tables");
        let found = layers.into_iter().find(|view| (view.key, view.layer_number) == (key, layer));
        found.map(|view| view.counters).unwrap_or_default()
    }

    /// Redirections by a frontend's first layer.
    #[must_use]
    pub fn redirected(&self, key: FrontendKey) -> u64 {
        self.counters(key, 0).redirected
    }

    /// Programs a frontend that has nothing but backends of weight 1. Its service id is 1.
    pub fn redirect(
        &mut self,
        protocol: Protocol,
        frontend: SocketAddr,
        backends: &[SocketAddr],
    ) -> FrontendKey {
        self.publish(protocol, frontend, alone(layer(1, backends)))
    }

    /// Programs a frontend.
    pub fn publish(&mut self, protocol: Protocol, frontend: SocketAddr, entry: Entry) -> FrontendKey {
        let key = key(protocol, frontend);
        self.tables.publish(key, &entry).must("program a frontend");
        key
    }
}

/// How a socket names addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket with IPv6 addresses.
    V6,
    /// An IPv6 socket with IPv4-mapped addresses.
    Mapped,
}

impl Family {
    /// All.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The address of a number, as sockets of the family name it.
    #[must_use]
    pub fn name(self, v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> SocketAddr {
        let address: IpAddr = match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
            Self::Mapped => v4.to_ipv6_mapped().into(),
        };
        SocketAddr::new(address, port)
    }

    /// A frontend of a [`Network`]: servers named `direct1`, ... listen there.
    #[must_use]
    pub fn frontend(self, number: u8) -> SocketAddr {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, number.into());
        self.name(Ipv4Addr::new(192, 0, 2, number), v6, 1000)
    }

    /// A backend of a [`Network`]: servers named `backend1`, ... listen there.
    #[must_use]
    pub fn backend(self, number: u8) -> SocketAddr {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, number.into());
        self.name(Ipv4Addr::new(198, 51, 100, number), v6, 2000)
    }

    /// The address that clients of a [`Network`] have.
    #[must_use]
    pub fn own(self) -> IpAddr {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 2);
        self.name(Ipv4Addr::new(203, 0, 113, 2), v6, 0).ip()
    }

    /// Its TCP sockets.
    #[must_use]
    pub fn tcp(self) -> Kind {
        if self == Self::V4 { Kind::Tcp4 } else { Kind::Tcp6 }
    }

    /// Its UDP sockets.
    #[must_use]
    pub fn udp(self) -> Kind {
        if self == Self::V4 { Kind::Udp4 } else { Kind::Udp6 }
    }

    /// Its sockets of a protocol.
    #[must_use]
    pub fn kind(self, protocol: Protocol) -> Kind {
        match protocol {
            Protocol::Tcp => self.tcp(),
            Protocol::Udp => self.udp(),
        }
    }
}

/// A namespace whose loopback device has everybody: 4 backends, and behind 8 frontends those who answer there
/// without a redirection.
#[derive(Debug)]
pub struct Network {
    /// The namespace.
    pub netns: NetNs,
    /// The servers.
    pub servers: EchoServer,
}

impl Network {
    /// Frontends that have a server of their own.
    pub const FRONTENDS: u8 = 8;
    /// Backends that have a server.
    pub const BACKENDS: u8 = 4;

    /// A new namespace with the same servers at the same addresses as every other.
    #[must_use]
    pub fn new() -> Self {
        let netns = NetNs::new();
        // Routes instead of addresses, so that a client's own address is not the one it talks to.
        netns.ip_batch(
            "address add 203.0.113.2/32 dev lo\n\
             address add 2001:db8:c::2/128 dev lo nodad\n\
             route add local 192.0.2.0/24 dev lo src 203.0.113.2\n\
             route add local 198.51.100.0/24 dev lo src 203.0.113.2\n\
             route add local 10.64.0.0/16 dev lo src 203.0.113.2\n\
             route add local 2001:db8:f::/48 dev lo src 2001:db8:c::2\n\
             route add local 2001:db8:b::/48 dev lo src 2001:db8:c::2\n",
        );
        netns.sysctl("ipv6/ip_nonlocal_bind", "1");
        let mut named = Vec::new();
        for family in [Family::V4, Family::V6] {
            for number in 1..=Self::FRONTENDS {
                named.push((format!("direct{number}"), family.frontend(number)));
            }
            for number in 1..=Self::BACKENDS {
                named.push((format!("backend{number}"), family.backend(number)));
            }
        }
        let servers = EchoServer::start_named(&netns, &named);
        Self { netns, servers }
    }

    /// A client in a cgroup.
    #[must_use]
    pub fn client(&self, cgroup: &Cgroup) -> Client {
        Client::start(&Place::default().in_netns(&self.netns).in_cgroup(cgroup))
    }

    /// The address that the kernel has as peer of the socket with this local port, whatever the socket's owner is told.
    /// IPv4-mapped addresses are IPv4 ones here.
    #[must_use]
    pub fn real_peer(&self, kind: Kind, local_port: u16) -> Option<SocketAddr> {
        let table = match kind {
            Kind::Tcp4 | Kind::Mptcp4 => "tcp",
            Kind::Tcp6 | Kind::Mptcp6 => "tcp6",
            Kind::Udp4 => "udp",
            Kind::Udp6 => "udp6",
            Kind::Icmp4 | Kind::Icmp6 => return None,
        };
        let path = format!("/proc/thread-self/net/{table}");
        let text = self.netns.run(|| fs::read_to_string(&path)).must("read the kernel's table of sockets");
        text.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, peer) = (hex_address(fields.next()?)?, hex_address(fields.next()?)?);
            (local.port() == local_port && peer.port() != 0).then_some(peer)
        })
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// `0100007F:1F90` and its like for IPv6: words in the byte order of the machine, the port in ours.
fn hex_address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for start in (0..words.len()).step_by(8) {
        let word = u32::from_str_radix(words.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// A data plane, a network and a pod: a cgroup with the programs for pods.
pub struct World {
    /// The data plane.
    pub plane: DataPlane,
    /// The network.
    pub network: Network,
    /// The pod's cgroup.
    pub pod: Cgroup,
}

impl World {
    /// A world without frontends.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self::on(DataPlane::new(topic), topic)
    }

    /// A world on a data plane.
    #[must_use]
    pub fn on(plane: DataPlane, topic: &str) -> Self {
        let pod = Cgroup::new(topic);
        plane.attach_pod(&pod);
        Self { plane, network: Network::new(), pod }
    }

    /// A client in the pod.
    #[must_use]
    pub fn client(&self) -> Client {
        self.network.client(&self.pod)
    }

    /// As [`Network::real_peer`], for a socket of a client.
    #[must_use]
    pub fn real_peer(&self, client: &mut Client, kind: Kind, socket: crate::Socket) -> Option<SocketAddr> {
        let own = client.sock_name(socket).must("ask for a socket's own address");
        self.network.real_peer(kind, own.port())
    }
}

/// The key of an address in any of its spellings.
#[must_use]
pub fn key(protocol: Protocol, address: SocketAddr) -> FrontendKey {
    FrontendKey { address: address.ip().to_canonical(), port: address.port(), protocol }
}

/// The address with an IPv4-mapped one as IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A backend of some weight.
#[must_use]
pub fn weighted(address: SocketAddr, weight: u32) -> Backend {
    Backend { address: address.ip().to_canonical(), port: address.port(), weight }
}

/// A layer for all clients with backends of weight 1 and nothing else.
#[must_use]
pub fn layer(service_id: u32, backends: &[SocketAddr]) -> Layer {
    Layer {
        service_id,
        backends: backends.iter().map(|address| weighted(*address, 1)).collect(),
        clients: Clients::All,
        qos_limit: None,
        window: service_id.into(),
        affinity: None,
        reject: false,
        skip: BTreeSet::new(),
    }
}

/// Lets the test's process, and children that start later, open as many files as the system allows at all.
pub fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).must("read the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).must("raise the limit of open files");
}

/// An entry without a second layer.
#[must_use]
pub fn alone(first: Layer) -> Entry {
    Entry { layers: vec![first] }
}

/// An entry whose second layer decides where the first stands aside.
#[must_use]
pub fn above(first: Layer, second: Layer) -> Entry {
    Entry { layers: vec![first, second] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_spelling_of_addresses() {
        assert_eq!(hex_address("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(
            hex_address("0000000000000000FFFF0000010200C0:0035"),
            Some("192.0.2.1:53".parse().unwrap())
        );
        assert_eq!(
            hex_address("B80D0120000000000000000001000000:0035"),
            Some("[2001:db8::1]:53".parse().unwrap())
        );
        assert_eq!(hex_address("local_address"), None);
    }
}
