//! Private network namespaces.

use std::{
    fs::{self, File},
    io::Write,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    panic::resume_unwind,
    path::PathBuf,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{must::Must, wait_until};

/// How long the kernel may take for a route.
const ROUTES: Duration = Duration::from_secs(60);

/// A network namespace without a name: it lives as long as this value, a socket or a process in it, and
/// nothing of it is visible below `/run/netns`.
#[derive(Debug)]
pub struct NetNs {
    descriptor: OwnedFd,
}

impl NetNs {
    /// A new namespace whose loopback device is up.
    #[must_use]
    pub fn new() -> Self {
        let descriptor = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).must("create a network namespace");
            own_namespace()
        })
        .join()
        .unwrap_or_else(|panic| resume_unwind(panic));
        let namespace = Self { descriptor };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// The namespace of the calling thread. It outlives this value.
    #[must_use]
    pub fn current() -> Self {
        Self { descriptor: own_namespace() }
    }

    /// A path that this process's children can open while this value lives: for `--netns`, `CNI_NETNS`
    /// and the like.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.descriptor.as_raw_fd()).into()
    }

    /// Runs a closure on a thread in this namespace and hands back its result or its panic. Sockets made
    /// there stay in the namespace wherever they are used later; so do child processes.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.descriptor, CloneFlags::CLONE_NEWNET).must("enter a network namespace");
                    action()
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread in this namespace.
    pub fn spawn(&self, action: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
        let descriptor = self.descriptor.try_clone().must("share a network namespace");
        thread::spawn(move || {
            setns(descriptor, CloneFlags::CLONE_NEWNET).must("enter a network namespace");
            action();
        })
    }

    /// Runs iproute2's `ip` in the namespace and returns what it printed.
    pub fn ip(&self, arguments: &[&str]) -> String {
        let output = self.run(|| Command::new("ip").args(arguments).output()).must("run ip (iproute2)");
        assert!(
            output.status.success(),
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        self.wait_for_routes();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The kernel answers that an IPv6 address is there before a work queue of its makes the route to it: on a busy
    /// machine whoever sends at once gets no answer. Waits for the routes of the loopback device's addresses.
    fn wait_for_routes(&self) {
        wait_until(ROUTES, || {
            let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            let (addresses, routes) = self.run(|| (read("if_inet6"), read("ipv6_route")));
            let (addresses, routes) = (addresses.unwrap_or_default(), routes.unwrap_or_default());
            let local = |address: &str| routes.lines().any(|route| is_local_route(route, address));
            addresses
                .lines()
                .filter(|line| line.ends_with(" lo"))
                .all(|line| line.get(..32).is_some_and(local))
        });
    }

    /// Runs many `ip` commands, one a line, in one process.
    pub fn ip_batch(&self, commands: &str) {
        let mut child = self
            .run(|| Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn())
            .must("run ip (iproute2)");
        let mut input = child.stdin.take().must("write to ip");
        input.write_all(commands.as_bytes()).must("write to ip");
        drop(input);
        let status = child.wait().must("wait for ip");
        assert!(status.success(), "ip -batch: {status}, commands:\n{commands}");
        self.wait_for_routes();
    }

    /// Gives a device an address such as `192.0.2.1/32` or `2001:db8::1/128`. It can be bound at once.
    pub fn add_address(&self, address: &str, device: &str) {
        // The kernel skips the search for duplicates that delays an IPv6 address.
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        self.ip(&[&["address", "add", address, "dev", device], nodad].concat());
    }

    /// Gives the loopback device single addresses.
    pub fn add_loopback(&self, addresses: &[IpAddr]) {
        for address in addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            self.add_address(&format!("{address}/{length}"), "lo");
        }
    }

    /// Joins two namespaces by a veth pair; both ends are up. The pair goes with either namespace.
    pub fn join(&self, device: &str, other: &NetNs, other_device: &str) {
        let path = other.path();
        let namespace = path.to_str().must("name the other namespace");
        self.ip(&["link", "add", device, "type", "veth", "peer", "name", other_device, "netns", namespace]);
        self.ip(&["link", "set", device, "up"]);
        other.ip(&["link", "set", other_device, "up"]);
    }

    /// Sets a variable below `/proc/sys/net`, such as `ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/net/{name}"), value)).must(format_args!("set net/{name}"));
    }
}

/// Whether a line of `ipv6_route` is the local route (`RTF_LOCAL`) to an address.
fn is_local_route(route: &str, address: &str) -> bool {
    const LOCAL: u32 = 0x8000_0000;
    let flags = route.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
    route.starts_with(address) && flags.is_some_and(|flags| flags & LOCAL != 0)
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

fn own_namespace() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").must("open the thread's network namespace").into()
}
