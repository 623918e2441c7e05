//! What the lenient readers of Pods, Nodes and Services share: collecting what they leave out, and the values
//! that appear in all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
};

use balancing_abi::model::Protocol;
use serde::{Deserialize, de::IgnoredAny};

use crate::objects::Addresses;

/// Problems of one object. What is noted here was left out of it.
#[derive(Default)]
pub(super) struct Notes {
    messages: Vec<String>,
}

/// `metadata`, with the annotations `A`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<A> {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<A>,
    pub(super) deletion_timestamp: Option<IgnoredAny>,
}

/// No annotation is looked at.
#[derive(Deserialize)]
pub(super) struct NoAnnotations {}

/// An entry of `podIPs`, `hostIPs` or `loadBalancer.ingress`.
#[derive(Deserialize)]
pub(super) struct IpEntry {
    pub(super) ip: Option<String>,
}

impl Notes {
    /// Notes a problem of the object as a whole.
    pub(super) fn push(&mut self, message: String) {
        self.messages.push(message);
    }

    /// Notes that the value of a field was left out.
    pub(super) fn left_out(&mut self, field: impl Display, rule: &str, found: impl Display) {
        self.push(format!("{field}: {rule}, found {found}; it is left out"));
    }

    /// All notes in order.
    pub(super) fn into_messages(self) -> Vec<String> {
        self.messages
    }

    /// Adds the address in `text` to `to`, in its canonical form. Empty text is no address and no problem.
    pub(super) fn ip(&mut self, field: impl Display, text: &str, to: &mut BTreeSet<IpAddr>) {
        match text.parse::<IpAddr>() {
            Ok(ip) => {
                to.insert(ip.to_canonical());
            }
            Err(_) if text.is_empty() => {}
            Err(_) => self.left_out(field, "must be an IP address", format_args!("{text:?}")),
        }
    }

    /// The addresses of `list`, or the single one when there is no list.
    pub(super) fn ips(
        &mut self,
        lists: &str,
        list: Option<&[IpEntry]>,
        field: &str,
        one: Option<&str>,
    ) -> Addresses {
        let mut ips = BTreeSet::new();
        for (i, entry) in list.unwrap_or_default().iter().enumerate() {
            self.ip(format_args!("{lists}[{i}].ip"), entry.ip.as_deref().unwrap_or_default(), &mut ips);
        }
        if list.is_none_or(<[IpEntry]>::is_empty) {
            self.ip(field, one.unwrap_or_default(), &mut ips);
        }
        ips.into()
    }

    /// A port from 1 to 65535.
    pub(super) fn port(&mut self, field: impl Display, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.left_out(field, "must be a port from 1 to 65535", number);
        }
        port
    }

    /// A protocol; absent is TCP. SCTP is a protocol of Kubernetes and simply not ours.
    pub(super) fn protocol(&mut self, field: impl Display, text: Option<&str>) -> Option<Protocol> {
        match text.unwrap_or_default() {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => None,
            other => {
                self.left_out(field, "must be TCP, UDP or SCTP", format_args!("{other:?}"));
                None
            }
        }
    }
}
