//! What a host has: links, addresses, routes and the switches of forwarding, as plain data.
//!
//! Read by [`Netlink::facts`](crate::Netlink::facts), decided upon by [`plan`](crate::plan()) and
//! [`choose`](crate::choose).

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::Mac;

/// The device for peers that are dialled over IPv4.
pub const DEVICE_IPV4: &str = "balancing0";
/// The device for peers that are dialled over IPv6.
pub const DEVICE_IPV6: &str = "balancing1";
/// Start of the alias of our devices; the fabric's name follows.
pub const ALIAS: &str = "balancing:";

/// The state of a host that matters to the fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every link.
    pub links: Vec<Link>,
    /// Every address.
    pub addresses: Vec<Address>,
    /// The routes of the tables `main` and `local`.
    pub routes: Vec<Route>,
    /// `net.ipv4.ip_forward`, where it could be read.
    pub forwards_ipv4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`, where it could be read.
    pub forwards_ipv6: Option<bool>,
}

impl Facts {
    /// The link with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of the link with this index, or the index in words.
    #[must_use]
    pub fn name(&self, index: u32) -> String {
        self.link(index).map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }

    /// Whether the link with this index is ours.
    #[must_use]
    pub fn is_ours(&self, index: u32) -> bool {
        self.link(index).is_some_and(Link::is_ours)
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The text that whoever made it left there.
    pub alias: Option<String>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Set up by an administrator; says nothing about a carrier.
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Kind of a virtual device, such as `veth`.
    pub kind: Option<String>,
    /// What a VXLAN device is set to.
    pub vxlan: Option<Vxlan>,
}

impl Link {
    /// Whether it is a device that we made: a VXLAN device with our alias, whatever name it has by now.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.fabric().is_some()
    }

    /// The fabric that it was made for, if it is ours.
    #[must_use]
    pub fn fabric(&self) -> Option<&str> {
        self.vxlan.as_ref()?;
        self.alias.as_deref()?.strip_prefix(ALIAS)
    }

    /// Whether it is a device that we made and could not mark, because we were killed in between: it is down, without
    /// any alias, and has the Ethernet address that only this member's has.
    #[must_use]
    pub fn is_half_made(&self, vni: u32, port: u16, mac: Mac) -> bool {
        let settings = self.vxlan.as_ref().is_some_and(|vxlan| (vxlan.vni, vxlan.port) == (vni, port));
        settings && !self.up && self.alias.is_none() && self.mac == Some(mac)
    }
}

/// Settings of a VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Takes identifier and destination from each packet's metadata, and so every identifier of the port.
    pub collect_metadata: bool,
    /// Learns who is behind which address from traffic.
    pub learning: bool,
    /// Index of the device that it is bound to, 0 if none.
    pub bound_to: u32,
    /// Other flags that all devices of one port must agree on, by name.
    pub flags: Vec<String>,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Where it means something.
    pub scope: Scope,
    /// Can be a source for long: not being tested, failed, outdated, or temporary.
    pub lasting: bool,
}

/// Where an address or a route means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// On this host.
    Host,
    /// Another scope.
    Other(u8),
}

/// A route of the tables `main` or `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// What happens to a packet.
    pub kind: RouteKind,
    /// The next router, if any.
    pub gateway: Option<IpAddr>,
    /// Index of the device; none for routes over several.
    pub device: Option<u32>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// MTU of the path, if it is set.
    pub mtu: Option<u32>,
    /// Priority: lower wins.
    pub metric: u32,
    /// Number of the program that made it.
    pub protocol: u8,
    /// Whether it stands in the table `main`.
    pub main: bool,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends on.
    Unicast,
    /// Delivers on this host.
    Local,
    /// Drops, refuses, or something that concerns no single destination.
    Other,
}
