//! What the proxy on the tunnel device forwards: its tables as the policies and the ready pods of this node say.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use balancing_core::{
    kinds::{ObjectKind, lacks_policies},
    resolve::{Family, Forward, ProxyPort, Role},
};
use balancing_dataplane::{
    model::{FrontendKey, PolicyKind, Protocol},
    proxy::{Error, Proxy, Service},
};
use balancing_tunnel::nat::{Frontend, Frontends, Pods};

use super::{LOOK, NOT_LISTED, News, Outcome, Reconciler};
use crate::{owner::Owner, world::World};

/// Time between two sweeps of connections that have ended.
const SWEEP: Duration = Duration::from_secs(5);
/// Time between two parts of a sweep.
const PART: Duration = Duration::from_millis(100);
/// Why nothing is changed.
const LACKING: &str =
    "policies, Services or Pods could not be listed yet: what the proxy forwards stays as it is";

/// See the module.
#[derive(Default)]
pub(crate) struct ForwardsReconciler {
    /// Addresses for which everything was made.
    made_for: Option<BTreeSet<IpAddr>>,
}

impl Reconciler<World> for ForwardsReconciler {
    fn name(&self) -> &'static str {
        "forwards"
    }

    fn listens_to(&self) -> News {
        News::OBJECTS | News::PROXY
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, everything: bool) -> (Outcome, News) {
        if !world.owner.is_synced() {
            return (Outcome::Asleep(NOT_LISTED), News::NONE);
        }
        let lacking = world.owner.lacking();
        let lacks = |kind| lacking.contains(&kind);
        if lacks_policies(lacking, PolicyKind::Balancing)
            || lacks(ObjectKind::Pod)
            || lacks(ObjectKind::Service)
        {
            return (Outcome::Partly(LACKING.to_owned(), None), News::NONE);
        }
        let translated = translate(world, everything);
        let (outcome, news) = self.forward(world, everything);
        match (outcome, translated) {
            (Outcome::Failed(why), _) => (Outcome::Failed(why), news),
            (_, Err(error)) => (Outcome::Failed(error.to_string()), news),
            // There were very many flows to pods that are gone.
            (_, Ok(())) if !world.fabric.nat.is_settled() => (Outcome::Again(Instant::now() + PART), news),
            (outcome, Ok(())) => (outcome, news),
        }
    }
}

impl ForwardsReconciler {
    /// What the proxy on the tunnel device forwards.
    fn forward(&mut self, world: &mut World, everything: bool) -> (Outcome, News) {
        let changed = world.owner.take_changed_ports();
        let addresses = world.fabric.addresses.clone();
        let World { owner, fabric, .. } = world;
        let Some(tools) = fabric.known_tools_mut() else {
            self.made_for = None;
            return (Outcome::Done, News::NONE);
        };
        if addresses.is_empty() {
            // The own address is not known yet, or not now: what an earlier agent declared stays.
            self.made_for = None;
            return (Outcome::Done, News::NONE);
        }
        let is_known = !everything && self.made_for.as_ref() == Some(&addresses);
        // What failed is looked at again as a whole.
        self.made_for = None;
        let made = match is_known {
            true => changed.into_iter().try_for_each(|port| make(&mut tools.proxy, owner, &addresses, port)),
            false => make_all(&mut tools.proxy, owner, &addresses),
        };
        let swept = made.and_then(|()| tools.proxy.sweep());
        match swept {
            Ok(swept) => {
                self.made_for = Some(addresses);
                let rest = if swept.complete { SWEEP } else { PART };
                (Outcome::Again(Instant::now() + rest), News::NONE)
            }
            Err(error) => (Outcome::Failed(error.to_string()), News::NONE),
        }
    }
}

/// Proxy addresses of this node that an administrator has put elsewhere than on our tunnel.
fn translate(world: &mut World, everything: bool) -> Result<(), balancing_tunnel::filter::Error> {
    let World { owner, fabric, .. } = world;
    let engine = owner.engine();
    if engine.settings().role != Role::Node {
        return Ok(());
    }
    let node = engine.snapshot().node(&engine.settings().node_name);
    let addresses = node.iter().flat_map(|node| &node.proxy_ips).filter(|ip| !fabric.addresses.contains(*ip));
    let mut wanted = Frontends::new();
    for address in addresses {
        for ((port, protocol), forward) in owner.forwards().iter() {
            let at = Frontend { at: SocketAddr::new(*address, port), is_udp: protocol == Protocol::Udp };
            let pods = forward.backends(Family::of(*address));
            let pods = pods.iter().map(|pod| SocketAddr::new(pod.address, pod.port)).collect();
            wanted.insert(at, Pods { pods, sticky: forward.affinity.is_some() });
        }
    }
    if !wanted.is_empty() {
        fabric.watch_rules();
    }
    let everything = everything || fabric.nat_is_due;
    fabric.nat.apply(&wanted, everything)?;
    fabric.nat_is_due = false;
    Ok(())
}

/// Brings every port up to date, and takes away what nobody declares.
fn make_all(proxy: &mut Proxy, owner: &Owner, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let forwards = owner.forwards();
    let is_wanted = |key: &FrontendKey| {
        addresses.contains(&key.address) && forwards.get((key.port, key.protocol)).is_some()
    };
    let gone: Vec<_> = proxy.entries().keys().filter(|key| !is_wanted(key)).copied().collect();
    gone.iter().try_for_each(|key| proxy.remove(key))?;
    forwards.iter().try_for_each(|(port, _)| make(proxy, owner, addresses, port))
}

/// Brings one port up to date at every address.
fn make(
    proxy: &mut Proxy,
    owner: &Owner,
    addresses: &BTreeSet<IpAddr>,
    (port, protocol): ProxyPort,
) -> Result<(), Error> {
    let forward = owner.forwards().get((port, protocol));
    for &address in addresses {
        let key = FrontendKey { address, port, protocol };
        match forward {
            Some(forward) => proxy.publish(key, &service(forward, address))?,
            None if proxy.entries().contains_key(&key) => proxy.remove(&key)?,
            None => {}
        }
    }
    Ok(())
}

fn service(forward: &Forward, address: IpAddr) -> Service {
    Service {
        service_id: forward.service_id,
        backends: forward.backends(Family::of(address)),
        affinity: forward.affinity,
        reject: forward.reject,
    }
}
