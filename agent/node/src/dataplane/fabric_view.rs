//! What is told of the fabric: the device, the members, what the proxy forwards and what was dropped.

use std::collections::BTreeMap;

use balancing_core::{
    fabric_view::{FabricView, ForwardView, PeerView},
    membership::{Membership, membership},
    resolve::{Forward, ProxyPort},
    view::OwnerView,
};

use super::Inside;
use crate::metrics::FabricSample;

/// The table of connections.
const CONNECTIONS: &str = "connections";

impl Inside {
    pub(super) fn fabric_view(&self) -> FabricView {
        let engine = self.world.owner.engine();
        let problem =
            self.scheduler.states().find(|state| state.name == "fabric").and_then(|s| s.problem.clone());
        let lacking = engine.snapshot().fabric_lacking();
        let mut view = match membership(engine.snapshot(), engine.settings()) {
            _ if !lacking.is_empty() => {
                let kinds: Vec<_> = lacking.iter().map(ToString::to_string).collect();
                let why = format!("{} could not be listed yet; what there is stays", kinds.join(", "));
                FabricView { state: "waiting".to_owned(), message: Some(why), ..FabricView::default() }
            }
            Membership::Outside(why) => {
                FabricView { state: "outside".to_owned(), message: Some(why), ..FabricView::default() }
            }
            Membership::Waiting(why) => {
                FabricView { state: "waiting".to_owned(), message: Some(why), ..FabricView::default() }
            }
            Membership::Member(member) => FabricView {
                state: "member".to_owned(),
                message: problem,
                fabric: Some(member.fabric.name.clone()),
                member: Some(member.name()),
                vni: Some(member.spec.vni),
                port: Some(member.spec.port),
                ..FabricView::default()
            },
        };
        view.overridden = self.world.fabric.report().overridden;
        self.add_tunnel(&mut view);
        self.add_proxy(&mut view);
        view
    }

    pub(super) fn fabric_sample(&self) -> FabricSample {
        let state = self.world.fabric.state.as_ref();
        let tools = self.world.fabric.known_tools();
        FabricSample {
            member: state.is_some_and(|state| state.device.is_some()),
            peers: state.map_or(0, |state| state.peers.len()),
            traffic: tools.and_then(|tools| tools.proxy.counters().ok()),
            filtered: tools.and_then(|tools| tools.filter.counters().ok()).unwrap_or_default(),
            tables: tools.and_then(|tools| tools.proxy.usage().ok()).unwrap_or_default(),
        }
    }

    /// The device and the peers as they were made last.
    fn add_tunnel(&self, view: &mut FabricView) {
        let Some(state) = &self.world.fabric.state else { return };
        view.device = state.device.map(|_| balancing_tunnel::facts::DEVICE_IPV4.to_owned());
        view.mtu = Some(state.mtu);
        view.underlay = state.own.underlay.iter().collect();
        view.addresses = state.own.addresses.iter().collect();
        view.peers = state.peers.iter().map(peer).collect();
        view.problems.clone_from(&state.problems);
    }

    /// What the proxy does, in the kernel's words.
    fn add_proxy(&self, view: &mut FabricView) {
        let Some(tools) = self.world.fabric.known_tools() else { return };
        view.forwards = self.world.owner.forwards().iter().map(forward).collect();
        match tools.filter.counters() {
            Ok(counters) => add(&mut view.drops, counters),
            Err(error) => view.problems.push(format!("the filter's counters cannot be read: {error}")),
        }
        match tools.proxy.counters() {
            Ok(counters) => add(&mut view.drops, counters.drops),
            Err(error) => view.problems.push(format!("the proxy's counters cannot be read: {error}")),
        }
        match tools.proxy.usage() {
            Ok(usage) => {
                let connections = usage.iter().find(|usage| usage.table == CONNECTIONS);
                // A connection has a row for each direction.
                view.connections =
                    connections.map(|rows| ((rows.used / 2).into(), (rows.capacity / 2).into()));
            }
            Err(error) => view.problems.push(format!("the proxy's tables cannot be read: {error}")),
        }
    }
}

/// Filter and proxy may drop for one and the same reason.
fn add<K: Into<String>>(drops: &mut BTreeMap<String, u64>, counters: impl IntoIterator<Item = (K, u64)>) {
    for (reason, count) in counters {
        *drops.entry(reason.into()).or_default() += count;
    }
}

fn peer(member: &balancing_tunnel::Member) -> PeerView {
    PeerView {
        name: member.name.clone(),
        underlay: member.underlay.iter().collect(),
        addresses: member.addresses.iter().collect(),
        mtu: member.mtu,
    }
}

fn forward(((port, protocol), forward): (ProxyPort, &Forward)) -> ForwardView {
    let pods = forward.pods.iter().filter_map(|(addresses, port)| {
        Some(std::net::SocketAddr::new(*addresses.first()?, *port).to_string())
    });
    ForwardView {
        port,
        protocol: protocol.to_string(),
        owner: OwnerView { kind: forward.policy.kind.to_string(), name: forward.policy.name.clone() },
        pods: pods.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_filter_and_proxy_for_one_reason_add_up() {
        let mut drops = BTreeMap::new();
        add(&mut drops, [("not_ip", 2), ("not_a_member", 1)]);
        add(&mut drops, [("not_ip", 3)]);
        assert_eq!(drops, [("not_a_member".to_owned(), 1), ("not_ip".to_owned(), 5)].into());
    }
}
