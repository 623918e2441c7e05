//! IP literals of policies and annotations.

use std::{collections::BTreeMap, net::IpAddr};

use crate::bounds::MAX_ADDRESSES;
use crate::{
    manifest::field::{Field, Known},
    objects::WeightedAddress,
};

const WEIGHTED: Known = Known { names: &["ip", "weight"], elsewhere: &[] };
/// Weight of an address that names none: all are equal.
const DEFAULT_WEIGHT: u32 = 1;
/// Largest weight.
const MAX_WEIGHT: u32 = 100;

/// An address that connections can have as destination, in canonical form.
///
/// # Errors
///
/// The rule that the text breaks.
pub(in crate::manifest) fn usable_ip(text: &str) -> Result<IpAddr, &'static str> {
    if text.contains('/') {
        return Err("must be a single IP address, not a network");
    }
    if text.contains('%') {
        return Err("must be an IP address without a zone");
    }
    let ip = text
        .parse::<IpAddr>()
        .map_err(|_not_an_address| "must be an IP address such as 192.0.2.1 or 2001:db8::1")?;
    match ip.to_canonical() {
        ip if ip.is_unspecified() => Err("must not be the unspecified address"),
        ip if ip.is_multicast() => Err("must not be a multicast address"),
        ip => Ok(ip),
    }
}

/// An IP literal.
pub(super) fn ip(field: &Field<'_>) -> Option<IpAddr> {
    match usable_ip(field.text()?) {
        Ok(ip) => Some(ip),
        Err(rule) => field.reject(rule, "write one IPv4 or IPv6 address"),
    }
}

/// `addressEndpoint.addresses`.
pub(super) fn list(field: &Field<'_>) -> Option<Vec<WeightedAddress>> {
    let items = field.items()?;
    if items.len() == 0 {
        return field.report("must have at least one address, found none; add one".to_owned());
    }
    field.at_most(MAX_ADDRESSES, items.len(), "addresses")?;
    let mut seen = BTreeMap::new();
    let addresses: Vec<_> = items
        .enumerate()
        .map(|(index, item)| {
            let address = weighted(&item)?;
            match seen.insert(address.ip, index) {
                None => Some(address),
                Some(first) => item.report(format!(
                    "must differ from the other addresses, found {} as in [{first}]; remove one",
                    address.ip
                )),
            }
        })
        .collect();
    addresses.into_iter().collect()
}

fn weighted(item: &Field<'_>) -> Option<WeightedAddress> {
    if item.value().is_string() {
        return ip(item).map(|ip| WeightedAddress { ip, weight: DEFAULT_WEIGHT });
    }
    if !item.value().is_object() {
        return item
            .reject("must be an IP address or an object with ip and weight", "put an address in quotes");
    }
    let fields = item.fields(&WEIGHTED)?;
    let ip = fields.required("ip", "add the address", ip);
    let weight = fields.or("weight", DEFAULT_WEIGHT, |field| field.integer(0..=MAX_WEIGHT));
    Some(WeightedAddress { ip: ip?, weight: weight? })
}
