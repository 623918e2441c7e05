//! The proxy of a tunnel without an agent: fed with frames, or at work on the first of a few members.

use std::net::{IpAddr, SocketAddr};

use balancing_dataplane::{
    model::{Backend, FrontendKey, Protocol},
    proxy::{Counters, Direction, Local, Options, Proxy, Service, Sizes},
};

use crate::{
    Bpffs, NetNs,
    must::Must,
    tunnel::{Dialled, Members},
};

/// The tunnel addresses of a [`Trial`]: those of the first member, too.
pub const OWN: [&str; 2] = ["10.211.0.1", "fd11::1"];
/// Capacities that are enough for a test.
pub const SIZES: Sizes =
    Sizes { frontends: 256, backends: 4096, connections: 65_536, affinity: 1024, fragments: 1024 };

/// Where a port of the proxy leads: to backends of equal weight, without affinity.
#[must_use]
pub fn service(backends: &[&str]) -> Service {
    let backend = |text: &&str| backend(text, 1);
    Service { service_id: 1, backends: backends.iter().map(backend).collect(), affinity: None, reject: false }
}

/// A backend with a weight.
#[must_use]
pub fn backend(address: &str, weight: u32) -> Backend {
    let address = crate::address(address);
    Backend { address: address.ip(), port: address.port(), weight }
}

/// A port of the first member's tunnel address.
#[must_use]
pub fn frontend(address: &str, protocol: Protocol) -> FrontendKey {
    let address = crate::address(address);
    FrontendKey { address: address.ip(), port: address.port(), protocol }
}

/// A loaded proxy without a device.
pub struct Trial {
    /// The proxy.
    pub proxy: Proxy,
    options: Options,
    // Last: dropping it removes the pins.
    #[allow(dead_code, reason = "it lives as long as this")]
    bpffs: Bpffs,
}

impl Trial {
    /// A proxy with own addresses that declares nothing.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self::with(topic, SIZES)
    }

    /// As [`Self::new`], with other capacities.
    #[must_use]
    pub fn with(topic: &str, sizes: Sizes) -> Self {
        Self::hurried(topic, sizes, 0)
    }

    /// As [`Self::with`], with a time that runs 2 to the power of `time_shift` as fast.
    #[must_use]
    pub fn hurried(topic: &str, sizes: Sizes, time_shift: u32) -> Self {
        let bpffs = Bpffs::new(topic);
        let options = Options { sizes, time_shift, ..Options::new(bpffs.path()) };
        let mut proxy = Proxy::load(&options).must("load the proxy");
        proxy.set_local(&own(OWN.map(ip))).must("set the own addresses");
        Self { proxy, options, bpffs }
    }

    /// A newer agent: loads the programs again and takes the tables over.
    pub fn reload(&mut self, sizes: Sizes) {
        self.options.sizes = sizes;
        self.proxy = self.another();
    }

    /// Another handle on the same tables, to try frames with.
    #[must_use]
    pub fn another(&self) -> Proxy {
        Proxy::load(&self.options).must("load the proxy again")
    }

    /// Leads a port to backends.
    pub fn declare(&mut self, address: &str, protocol: Protocol, service: &Service) {
        self.proxy.publish(frontend(address, protocol), service).must("declare a port");
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.proxy.counters().must("read the counters")
    }

    /// A frame as it goes on.
    ///
    /// # Panics
    /// When it is dropped, with the reason.
    #[must_use]
    #[track_caller]
    pub fn pass(&self, direction: Direction, frame: &[u8]) -> Vec<u8> {
        self.judge(direction, frame).unwrap_or_else(|reason| panic!("dropped: {reason}"))
    }

    /// The reason why a frame is dropped.
    ///
    /// # Panics
    /// When it passes.
    #[track_caller]
    pub fn drop_reason(&self, direction: Direction, frame: &[u8]) -> &'static str {
        self.judge(direction, frame).err().must("have the frame dropped")
    }

    /// A frame as it goes on, or the reason why it does not. It is counted once.
    #[track_caller]
    fn judge(&self, direction: Direction, frame: &[u8]) -> Result<Vec<u8>, &'static str> {
        let before = self.counters();
        let verdict = self.proxy.try_frame(direction, frame).must("try a frame");
        let after = self.counters();
        let counted: Vec<_> =
            after.drops.iter().filter(|(reason, count)| before.drops[*reason] != **count).collect();
        let passed = packets(&after) - packets(&before);
        assert_eq!(passed + counted.len() as u64, 1, "counted once: {passed} passed, dropped as {counted:?}");
        match counted.first() {
            None => {
                assert!(verdict.passed);
                Ok(verdict.frame)
            }
            Some((reason, _)) => {
                assert!(!verdict.passed);
                Err(reason)
            }
        }
    }
}

/// Packets that passed in either direction.
#[must_use]
pub fn packets(counters: &Counters) -> u64 {
    counters.ingress.0 + counters.egress.0
}

fn own(addresses: [IpAddr; 2]) -> Local {
    let mut local = Local::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => local.ipv4 = Some(address),
            IpAddr::V6(address) => local.ipv6 = Some(address),
        }
    }
    local
}

/// The proxy of a member, at work on its device.
pub struct AtWork {
    /// The proxy.
    pub proxy: Proxy,
    /// Its directory.
    pub bpffs: Bpffs,
}

/// Three members. The proxy works at the first one, which has pods that nobody else can reach.
pub struct Proxied {
    /// The members.
    pub members: Members,
    /// The first one's proxy.
    pub server: AtWork,
}

impl Proxied {
    /// Members with a proxy that declares nothing.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let members = Members::new(&[Dialled::Ipv4; 3]);
        members.apply();
        for (host, number) in members.hosts.iter().zip(1..) {
            host.namespace.sysctl("ipv4/ip_forward", "1");
            host.namespace.sysctl("ipv6/conf/all/forwarding", "1");
            let others = (1..=members.hosts.len()).filter(|other| *other != number);
            others.flat_map(|other| members.inside(other)).for_each(|address| host.wait_for(address));
        }
        let server = at_work(&members, 1, topic);
        Self { members, server }
    }

    /// Puts a proxy to work on a client's device as well, so that its pods can use the tunnel.
    #[must_use]
    pub fn start_on(&self, member: usize, topic: &str) -> AtWork {
        at_work(&self.members, member, topic)
    }

    /// The network of a member's host.
    #[must_use]
    pub fn host(&self, member: usize) -> &NetNs {
        &self.members.hosts[member - 1].namespace
    }

    /// A pod of a member: `10.244.<member>.<number>` and `fd44:<member>::<number>`.
    #[must_use]
    pub fn pod(&self, member: usize, number: u8) -> NetNs {
        let (host, pod, device) = (self.host(member), NetNs::new(), format!("pod{number}"));
        host.join(&device, &pod, "eth0");
        for (option, gateway, length, address) in [
            ("-4", "169.254.1.1", 32, format!("10.244.{member}.{number}")),
            ("-6", "fe80::1", 128, format!("fd44:{member}::{number}")),
        ] {
            host.add_address(&format!("{gateway}/{length}"), &device);
            pod.add_address(&format!("{address}/{length}"), "eth0");
            pod.ip(&[option, "route", "replace", "default", "via", gateway, "dev", "eth0", "onlink"]);
            host.ip(&[option, "route", "replace", &format!("{address}/{length}"), "dev", &device]);
        }
        pod
    }

    /// Leads a port of the first member to backends.
    pub fn declare(&mut self, address: &str, protocol: Protocol, service: &Service) {
        self.server.proxy.publish(frontend(address, protocol), service).must("declare a port");
    }

    /// A counter of the first member's drops.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.server.proxy.counters().must("read the counters").drops[reason]
    }

    /// The tunnel address of a member, of the family of another address.
    #[must_use]
    pub fn inside(&self, member: usize, like: SocketAddr) -> IpAddr {
        self.members.inside(member)[usize::from(like.is_ipv6())]
    }
}

impl AtWork {
    /// A newer agent takes the tables and the device over.
    ///
    /// # Panics
    /// When anything fails.
    pub fn restart(&mut self, host: &NetNs) {
        let options = Options { sizes: SIZES, ..Options::new(self.bpffs.path()) };
        let mut proxy = Proxy::load(&options).must("load the proxy again");
        let device = device(host);
        assert!(host.run(|| proxy.attach(device)).must("take the device over"), "nothing was replaced");
        self.proxy = proxy;
    }
}

/// Index of the tunnel device of a host.
#[must_use]
pub fn device(host: &NetNs) -> u32 {
    let index = host.run(|| nix::net::if_::if_nametoindex("balancing0"));
    index.must("find the tunnel device")
}

fn at_work(members: &Members, member: usize, topic: &str) -> AtWork {
    let bpffs = Bpffs::new(topic);
    let options = Options { sizes: SIZES, ..Options::new(bpffs.path()) };
    let mut proxy = Proxy::load(&options).must("load the proxy");
    proxy.set_local(&own(members.inside(member))).must("set the own addresses");
    let host = &members.hosts[member - 1].namespace;
    let device = device(host);
    assert!(host.run(|| proxy.attach(device)).must("attach the proxy"), "it was attached already");
    AtWork { proxy, bpffs }
}

fn ip(text: &str) -> IpAddr {
    text.parse().must(format_args!("parse {text}"))
}
