//! The links at the cgroup root, for processes of the host.

use std::{collections::BTreeSet, net::IpAddr};

use balancing_core::{objects::Pod, resolve::Role};
use balancing_dataplane::{
    cgroup::CgroupDir,
    links::{self, Change},
};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::{AttachError, Attacher, takeover::move_dir};

impl Attacher {
    /// Makes and mends the host's links, or takes them away; the tables must be filled. Idempotent.
    ///
    /// # Errors
    /// What keeps the host from being hooked.
    pub fn attach_host(&mut self, pods: &[&Pod]) -> Result<(), AttachError> {
        let result = self.try_attach_host(pods);
        self.failures.host += u64::from(result.is_err());
        self.host_attached = result.is_ok() && self.rules.hooks_host();
        self.watch.set_host(self.host_attached.then(|| self.layout.host()));
        result
    }

    fn try_attach_host(&self, pods: &[&Pod]) -> Result<(), AttachError> {
        let host = self.layout.host();
        for old in self.older()? {
            move_dir(&old.host(), &host)?;
        }
        if !self.rules.hooks_host() {
            links::remove(&host)?;
            return Ok(());
        }
        // The programs act in the agent's network namespace only. Were that a pod's, they would act on nobody's sockets.
        if self.rules.role == Role::Node
            && let Some(pod) = pod_of(&own_addresses(), pods)
        {
            return Err(AttachError::PodNamespace { pod: format!("{}/{}", pod.namespace, pod.name) });
        }
        let root = CgroupDir::open(&self.cgroup_root)?;
        // Made by the loader as an empty place; only a published directory may be mended.
        let changes = links::attach(&self.host, &root, &host)?;
        let hooks = changes.values().filter(|change| **change != Change::Kept).count();
        if hooks > 0 {
            tracing::info!(hooks, "the host's links are up to date");
        }
        Ok(())
    }
}

/// The pod with a network namespace of its own that has one of the addresses.
fn pod_of<'a>(addresses: &BTreeSet<IpAddr>, pods: &[&'a Pod]) -> Option<&'a Pod> {
    let has_one = |pod: &Pod| pod.ips.iter().any(|ip| addresses.contains(ip));
    pods.iter().copied().find(|pod| !pod.host_network && !pod.finished && has_one(pod))
}

/// Addresses of the interfaces in this network namespace; those of the loopback interface may be anybody's.
fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return BTreeSet::new() };
    let interfaces = interfaces.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_pod_is_that_of_its_namespace() {
        let pod = |ip: &str, host_network| Pod {
            ips: [ip.parse().unwrap()].into_iter().collect(),
            host_network,
            ..Pod::default()
        };
        let own = BTreeSet::from(["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()]);
        let (other, host, inside) = (pod("10.0.0.2", false), pod("10.0.0.1", true), pod("10.0.0.1", false));
        assert_eq!(pod_of(&own, &[&other, &host]), None);
        assert_eq!(pod_of(&own, &[&other, &host, &inside]), Some(&inside));
        let gone = Pod { finished: true, ..inside.clone() };
        assert_eq!(pod_of(&own, &[&gone]), None, "its address may be another's");
    }
}
