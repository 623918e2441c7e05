//! The proxy addresses in the annotations of the Node.
//!
//! They are applied by a field manager of ours, never by force: a value that somebody else wrote is the administrator's, and wins.
//! An apply without an annotation takes ours back and leaves others alone (Kubernetes, "Server-Side Apply").

use std::{collections::BTreeMap, net::IpAddr};

use super::requests::{Applied, Requests, WriteError};

/// Annotation names by family, as in the contract.
const NAMES: [&str; 2] = ["balancing.elf.io/nodeProxyIpv4", "balancing.elf.io/nodeProxyIpv6"];

/// What was applied.
#[derive(Default)]
pub(super) struct Annotations {
    /// The values applied last, with what the Node showed then.
    applied: Option<(BTreeMap<&'static str, String>, Vec<IpAddr>)>,
    /// Those that an administrator has set.
    overridden: Vec<&'static str>,
}

impl Annotations {
    /// Names that belong to an administrator.
    pub(super) fn overridden(&self) -> Vec<String> {
        self.overridden.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Makes the proven addresses the Node's proxy addresses; `seen`: those that the Node has. Where the Node has changed, an
    /// administrator may have given or taken something.
    pub(super) async fn put(
        &mut self,
        requests: &Requests,
        node: &str,
        proven: &[IpAddr],
        seen: &[IpAddr],
    ) -> Result<(), WriteError> {
        let wanted = values(proven);
        if self.applied.as_ref().is_some_and(|(applied, then)| *applied == wanted && then == seen) {
            return Ok(());
        }
        let shown = values(seen);
        let is_there = wanted.iter().all(|(name, value)| shown.get(name) == Some(value));
        let known = self.applied.as_ref().is_some_and(|(applied, _)| *applied == wanted);
        if !(known && is_there) {
            self.overridden = self.apply(requests, node, wanted.clone()).await?;
        }
        self.applied = Some((wanted, seen.to_vec()));
        Ok(())
    }

    /// Takes ours back.
    pub(super) async fn withdraw(&mut self, requests: &Requests, node: &str) -> Result<(), WriteError> {
        if self.applied.as_ref().is_some_and(|(applied, _)| applied.is_empty()) {
            return Ok(());
        }
        requests.annotate(node, &BTreeMap::new()).await?;
        self.applied = Some((BTreeMap::new(), Vec::new()));
        self.overridden.clear();
        Ok(())
    }

    /// One that is the administrator's keeps no other one away: then each is applied that can be.
    async fn apply(
        &self,
        requests: &Requests,
        node: &str,
        mut wanted: BTreeMap<&'static str, String>,
    ) -> Result<Vec<&'static str>, WriteError> {
        let mut overridden = Vec::new();
        loop {
            match requests.annotate(node, &wanted).await? {
                Applied::Done => return Ok(overridden),
                Applied::Conflict(message) => {
                    let named =
                        NAMES.into_iter().find(|name| wanted.contains_key(name) && message.contains(name));
                    let Some(name) = named.or_else(|| wanted.keys().next().copied()) else {
                        return Ok(overridden);
                    };
                    tracing::info!(node, annotation = name, "an administrator has set it; it stays");
                    wanted.remove(name);
                    overridden.push(name);
                }
            }
        }
    }
}

fn values(addresses: &[IpAddr]) -> BTreeMap<&'static str, String> {
    addresses.iter().map(|address| (NAMES[usize::from(address.is_ipv6())], address.to_string())).collect()
}
