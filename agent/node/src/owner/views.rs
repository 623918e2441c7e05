//! What commands are told: the decisions, and where the kernel does something else.

use std::collections::BTreeSet;

use balancing_core::{
    explain::{Deviation, Explanation, explain},
    objects::{ObjectRef, PolicyRef},
    view::{KeyView, PolicyView},
};
use balancing_dataplane::model::{Backend, FrontendKey};

use super::Owner;

impl Owner {
    /// The rows of `policies`. Before the first decisions they are what the kernel names.
    #[must_use]
    pub fn policy_views(&self) -> Vec<PolicyView> {
        if !self.synced {
            return self.kernel_views();
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

    fn kernel_views(&self) -> Vec<PolicyView> {
        let names = self.tables.policies().iter();
        let view = |(id, name): (&u32, &balancing_dataplane::model::PolicyName)| {
            let own = || {
                let entries = self.tables.entries().iter();
                entries
                    .flat_map(|(key, entry)| entry.layers.iter().map(move |layer| (key, layer)))
                    .filter(|(_, layer)| layer.service_id == *id)
            };
            let frontends = own().map(|(key, _)| KeyView::from(key)).collect();
            let backends: BTreeSet<Backend> =
                own().flat_map(|(_, layer)| layer.backends.iter().copied()).collect();
            let policy = PolicyRef { kind: name.kind, name: name.name.clone() };
            PolicyView::in_kernel(&policy, *id, frontends, backends.len())
        };
        names.map(view).collect()
    }
}
