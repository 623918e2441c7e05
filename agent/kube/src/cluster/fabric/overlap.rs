//! Whether the pools of a fabric overlap networks of the cluster.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use balancing_core::{objects::FabricSpec, snapshot::Snapshot};

/// The first overlap, in words.
pub(super) fn overlap(spec: &FabricSpec, snapshot: &Snapshot) -> Option<String> {
    spec.pools().find_map(|pool| {
        let has = |address: &&IpAddr| pool.contains(**address);
        let service = snapshot.services().find_map(|service| {
            let address = service.cluster_ips.iter().find(has)?;
            Some(format!("{address}, the ClusterIP of Service {}/{}", service.namespace, service.name))
        });
        let of_node = || {
            snapshot.nodes().find_map(|node| {
                let pods = node.pod_networks.iter().find(|network| meets(pool, **network));
                let pods = pods.map(|network| format!("{network}, the pod network of Node {}", node.name));
                // Its proxy addresses come from the pool.
                let own = || node.ips.iter().chain(&node.other_ips).find(has);
                pods.or_else(|| own().map(|address| format!("{address}, an address of Node {}", node.name)))
            })
        };
        let of_pod = || {
            let mut pods = snapshot.nodes().flat_map(|node| snapshot.pods_on(&node.name));
            pods.find_map(|pod| {
                let address = pod.ips.iter().find(has)?;
                Some(format!("{address}, the address of Pod {}/{}", pod.namespace, pod.name))
            })
        };
        service.or_else(of_node).or_else(of_pod).map(|what| {
            format!("the pool {pool} overlaps {what}; make another TunnelFabric with a network that nothing else uses")
        })
    })
}

/// Two networks overlap when one holds the beginning of the other.
fn meets(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}
