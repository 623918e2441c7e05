//! What commands are told: the decisions, and where the kernel does something else.

use std::collections::{BTreeMap, BTreeSet};

use balancing_core::{
    explain::{Deviation, Explanation, explain},
    objects::{ObjectRef, PolicyRef},
    resolve::Role,
    view::{KeyView, PolicyView},
};
use balancing_dataplane::model::{Backend, Entry, FrontendKey, PolicyName};

use super::Owner;

impl Owner {
    /// The rows of `policies`. Before the first decisions they are what the kernel names.
    #[must_use]
    pub fn policy_views(&self) -> Vec<PolicyView> {
        if !self.synced {
            return kernel_views(self.tables.policies(), self.tables.entries());
        }
        let verdicts = self.engine.verdicts().iter();
        verdicts.map(|(policy, verdict)| PolicyView::new(policy, verdict, &self.failures)).collect()
    }

    /// The answer to `explain`.
    #[must_use]
    pub fn explain(&self, key: FrontendKey, client: Option<&ObjectRef>) -> Explanation {
        let mut explanation = explain(&self.engine, key, client);
        let key = FrontendKey { address: key.address.to_canonical(), ..key };
        if let Some(deviation) = self.deviation(&key) {
            explanation.deviate(&deviation, &self.kernel_names(&key));
        }
        let settings = self.engine.settings();
        let node = self.engine.snapshot().node(&settings.node_name).filter(|_| settings.role == Role::Node);
        if node.is_some_and(|node| node.proxy_ips.contains(&key.address)) {
            explanation.forwarded(&key, self.forwards.get((key.port, key.protocol)));
        }
        explanation
    }

    fn deviation(&self, key: &FrontendKey) -> Option<Deviation> {
        if !self.synced {
            return Some(Deviation::NotSynced);
        }
        if let Some(failure) = self.failures.get(key) {
            return Some(Deviation::Failed(failure.message.clone()));
        }
        let decided = self.engine.entry(key).map(|entry| entry.to_model().normalized());
        (decided.as_ref() != self.tables.entries().get(key)).then_some(Deviation::Kept)
    }

    /// The policies whose layers the kernel has for a frontend.
    fn kernel_names(&self, key: &FrontendKey) -> Vec<String> {
        let layers = self.tables.entries().get(key).into_iter().flat_map(|entry| &entry.layers);
        let named = layers.map(|layer| match self.tables.policies().get(&layer.service_id) {
            Some(policy) => format!("{} {}", policy.kind, policy.name),
            None => format!("service id {}", layer.service_id),
        });
        named.collect()
    }
}

/// What the kernel has for one service id.
#[derive(Default)]
struct Share {
    frontends: Vec<KeyView>,
    backends: BTreeSet<Backend>,
}

/// A row for each name, from one look at all entries: there may be as many of both as the tables hold.
fn kernel_views(
    names: &BTreeMap<u32, PolicyName>,
    entries: &BTreeMap<FrontendKey, Entry>,
) -> Vec<PolicyView> {
    let mut shares = BTreeMap::<u32, Share>::new();
    for (key, entry) in entries {
        for layer in &entry.layers {
            let share = shares.entry(layer.service_id).or_default();
            share.frontends.push(KeyView::from(key));
            share.backends.extend(layer.backends.iter().copied());
        }
    }
    let rows = names.iter().map(|(id, name)| {
        let Share { frontends, backends } = shares.remove(id).unwrap_or_default();
        let policy = PolicyRef { kind: name.kind, name: name.name.clone() };
        PolicyView::in_kernel(&policy, *id, frontends, backends.len())
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use balancing_dataplane::model::{Clients, Layer, PolicyKind, Protocol};

    use super::*;

    /// `many` policies, each with a frontend of its own and a common one.
    fn kernel(many: u32) -> (BTreeMap<u32, PolicyName>, BTreeMap<FrontendKey, Entry>) {
        let name = |id: u32| PolicyName { kind: PolicyKind::Balancing, name: format!("p{id}") };
        let layer = |service_id: u32| Layer {
            service_id,
            backends: vec![Backend { address: [10, 1, 0, 1].into(), port: 80, weight: 1 }],
            clients: Clients::All,
            qos_limit: None,
            window: 0,
            affinity: None,
            reject: false,
            skip: BTreeSet::new(),
        };
        let key = |id: u32, port| FrontendKey {
            address: std::net::Ipv4Addr::from_bits(id).into(),
            port,
            protocol: Protocol::Tcp,
        };
        let own = (1..=many).map(|id| (key(id, 80), Entry { layers: vec![layer(id)] }));
        let common = (key(0, 81), Entry { layers: vec![layer(1), layer(2)] });
        ((1..=many).map(|id| (id, name(id))).collect(), own.chain([common]).collect())
    }

    #[test]
    fn each_name_has_its_frontends_and_distinct_backends() {
        let (mut names, entries) = kernel(3);
        names.insert(9, PolicyName { kind: PolicyKind::Balancing, name: "idle".to_owned() });
        let rows = kernel_views(&names, &entries);
        let told: Vec<_> =
            rows.iter().map(|row| (row.name.as_str(), row.frontends.len(), row.backends)).collect();
        assert_eq!(told, [("p1", 2, 1), ("p2", 2, 1), ("p3", 1, 1), ("idle", 0, 0)]);
    }

    #[test]
    fn many_names_take_no_longer_than_their_number() {
        let (names, entries) = kernel(50_000);
        let start = Instant::now();
        assert_eq!(kernel_views(&names, &entries).len(), 50_000);
        // Two looks at all entries for each name would be five billion steps.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
