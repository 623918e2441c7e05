//! The network between the hosts of a test: each host has a network of its own, and a router joins them.

use std::{cell::Cell, net::IpAddr};

use crate::{NetNs, must::Must};

/// Name of a host's device in its network.
const DEVICE: &str = "under0";

/// A router with a network for each host: `192.168.<n>.0/24` and `fd00:<n>::/64`, where the router is `.1` and the host `.2`.
#[derive(Debug)]
pub struct Underlay {
    router: NetNs,
    hosts: Cell<u8>,
}

impl Underlay {
    /// A router without hosts.
    #[must_use]
    pub fn new() -> Self {
        let router = NetNs::new();
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        Self { router, hosts: Cell::new(0) }
    }

    /// The router.
    #[must_use]
    pub fn router(&self) -> &NetNs {
        &self.router
    }

    /// Joins a host by a network of its own; its number. Everything that the host does not know goes to the router.
    pub fn join(&self, host: &NetNs) -> u8 {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        self.join_by(host, number);
        number
    }

    /// Takes a host's device away and makes it anew, with the same addresses.
    pub fn rejoin(&self, host: &NetNs, number: u8) {
        host.ip(&["link", "delete", DEVICE]);
        self.join_by(host, number);
    }

    fn join_by(&self, host: &NetNs, number: u8) {
        let device = format!("net{number}");
        self.router.join(&device, host, DEVICE);
        self.router.add_address(&format!("192.168.{number}.1/24"), &device);
        self.router.add_address(&format!("fd00:{number}::1/64"), &device);
        for address in Self::addresses(number, 2) {
            let length = if address.is_ipv4() { 24 } else { 64 };
            host.add_address(&format!("{address}/{length}"), DEVICE);
        }
        self.route(host, number);
    }

    /// The addresses of host `last` in network `number`, IPv4 first.
    #[must_use]
    pub fn addresses(number: u8, last: u8) -> [IpAddr; 2] {
        [format!("192.168.{number}.{last}"), format!("fd00:{number}::{last}")]
            .map(|text| text.parse().must("parse an address of the underlay"))
    }

    /// Makes the ways from a host to the others, which are lost when its device was down.
    pub fn route(&self, host: &NetNs, number: u8) {
        host.ip(&["route", "replace", "192.168.0.0/16", "via", &format!("192.168.{number}.1")]);
        host.ip(&["-6", "route", "replace", "fd00::/16", "via", &format!("fd00:{number}::1")]);
    }
}

impl Default for Underlay {
    fn default() -> Self {
        Self::new()
    }
}
