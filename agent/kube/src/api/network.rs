//! CEL rules for networks, unicast addresses, MAC addresses and ports of tunnels. The agent's own are in
//! `manifest::network`.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use balancing_core::bounds::{MAX_INTERFACES, MAX_NETWORKS, MAX_TUNNEL_ADDRESSES};

/// Longest address in canonical form.
pub(super) const ADDRESS_LENGTH: u32 = 39;
/// Longest network: address, slash and three digits.
pub(super) const NETWORK_LENGTH: u32 = ADDRESS_LENGTH + 4;
/// Length of a MAC address.
pub(super) const MAC_LENGTH: u32 = 17;

/// The text is a network without host bits.
pub(super) fn network() -> [Rule; 2] {
    [
        Rule::new("isCIDR(self)").message(
            "must be a network such as 10.211.0.0/16 or fd00:10:211::/64; write an address, a slash and the length of the prefix",
        ),
        host_bits(),
    ]
}

fn host_bits() -> Rule {
    Rule::new("!isCIDR(self) || cidr(self) == cidr(self).masked()")
        .message("must be a network without host bits: every bit behind the prefix is 0")
}

/// The network can be a pool of the family.
pub(super) fn pool(family: u8, least: u8, most: u8) -> [Rule; 2] {
    let size = format!(
        "!isCIDR(self) || cidr(self).ip().family() == {family} && cidr(self).prefixLength() >= {least} \
         && cidr(self).prefixLength() <= {most}"
    );
    let message = format!(
        "must be an IPv{family} network with a prefix from /{least} to /{most}; write such a network"
    );
    [
        Rule::new(size).message(message.as_str()),
        Rule::new("!isCIDR(self) || cidr(self).masked().ip().isGlobalUnicast()").message(
            "must be a network of unicast addresses: not unspecified, loopback, link-local or multicast; write a \
             private network that nothing else uses",
        ),
    ]
}

/// The text is the address of one host in canonical form.
pub(super) fn unicast() -> [Rule; 3] {
    [
        Rule::new("isIP(self)").message(
            "must be an IP address such as 192.0.2.1 or 2001:db8::1, without prefix length or zone; correct it",
        ),
        Rule::new("!isIP(self) || ip.isCanonical(self)").message("must be written in its canonical form, such as 2001:db8::1"),
        Rule::new("!isIP(self) || ip(self).isGlobalUnicast()").message(
            "must be a unicast address: not unspecified, loopback, link-local or multicast; write an address that \
             other hosts reach",
        ),
    ]
}

/// The address is of the family.
pub(super) fn family(family: u8) -> Rule {
    Rule::new(format!("!isIP(self) || ip(self).family() == {family}"))
        .message(format!("must be an IPv{family} address; write it as the other family").as_str())
}

/// The text is the MAC address of one interface.
pub(super) fn mac() -> [Rule; 2] {
    [
        Rule::new("self.matches('^[0-9a-f]{2}(:[0-9a-f]{2}){5}$')")
            .message("must be a MAC address such as 66:0a:0b:0c:0d:0e in lower case; correct it"),
        Rule::new("self.matches('^.[02468ace]') && self != '00:00:00:00:00:00'").message(
            "must be the MAC address of one interface: the second digit even, not all zero; write another one",
        ),
    ]
}

/// The number can be the port of a tunnel.
pub(super) fn tunnel_port() -> Rule {
    Rule::new("!(self in [4789, 8472])")
        .message("must not be 4789 or 8472, on which the tunnels of network plugins run; take another port")
}

/// A list of networks.
pub(super) fn networks(_generator: &mut SchemaGenerator) -> Schema {
    list(MAX_NETWORKS, NETWORK_LENGTH, &network(), &[])
}

/// A list of networks with at least one.
pub(super) fn some_networks(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = networks(generator);
    schema.insert("minItems".to_owned(), json!(1));
    schema
}

/// A list of tunnel addresses with at least one, each once.
pub(super) fn tunnel_addresses(_generator: &mut SchemaGenerator) -> Schema {
    let once = Rule::new("self.all(a, self.exists_one(b, b == a))")
        .message("every address must differ from the other addresses; remove one");
    let mut schema = list(MAX_TUNNEL_ADDRESSES, ADDRESS_LENGTH, &unicast(), &[once]);
    schema.insert("minItems".to_owned(), json!(1));
    schema
}

/// A list of names of interfaces.
pub(super) fn interfaces(_generator: &mut SchemaGenerator) -> Schema {
    let name = Rule::new("self.matches('^([!-)+-.0-9;-~]+[*]?|[*])$') && !(self in ['.', '..'])")
        .message(balancing_core::manifest::name::INTERFACE);
    list(MAX_INTERFACES, 15, &[name], &[])
}

fn list(most: usize, length: u32, of_items: &[Rule], of_list: &[Rule]) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": most,
        "items": { "type": "string", "maxLength": length, "x-kubernetes-validations": of_items },
    });
    if !of_list.is_empty() {
        let rules: Vec<Value> = of_list.iter().map(|rule| json!(rule)).collect();
        schema.insert("x-kubernetes-validations".to_owned(), rules.into());
    }
    schema
}
