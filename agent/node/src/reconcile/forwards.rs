//! What the proxy on the tunnel device forwards: its tables as the policies and the ready pods of this node say.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use balancing_core::{
    kinds::{ObjectKind, lacks_policies},
    resolve::{Family, Forward, ProxyPort},
};
use balancing_dataplane::{
    model::{FrontendKey, PolicyKind},
    proxy::{Error, Proxy, Service},
};

use super::{LOOK, NOT_LISTED, News, Outcome, Reconciler};
use crate::{owner::Owner, world::World};

/// Time between two sweeps of connections that have ended.
const SWEEP: Duration = Duration::from_secs(5);
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
        let changed = world.owner.take_changed_ports();
        let addresses = world.fabric.addresses.clone();
        let World { owner, fabric, .. } = world;
        let Some(tools) = fabric.known_tools_mut() else {
            self.made_for = None;
            return (Outcome::Done, News::NONE);
        };
        let is_known = !everything && self.made_for.as_ref() == Some(&addresses);
        // What failed is looked at again as a whole.
        self.made_for = None;
        let made = match is_known {
            true => changed.into_iter().try_for_each(|port| make(&mut tools.proxy, owner, &addresses, port)),
            false => make_all(&mut tools.proxy, owner, &addresses),
        };
        let swept = made.and_then(|()| tools.proxy.sweep());
        match swept {
            Ok(_) => {
                self.made_for = Some(addresses);
                (Outcome::Again(Instant::now() + SWEEP), News::NONE)
            }
            Err(error) => (Outcome::Failed(error.to_string()), News::NONE),
        }
    }
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
