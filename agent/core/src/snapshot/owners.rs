//! The policies, indexed by what they look at.
//!
//! A pod finds the policies that select it by the first `matchLabels` pair of their selectors; a
//! selector without one is found by its namespace, without that in a general bucket.

use std::collections::{BTreeMap, BTreeSet};

use crate::objects::{
    BackendSpec, FrontendSpec, LabelSelector, ObjectRef, Pod, PodBackend, Policy, PolicyRef,
};

/// All policies.
#[derive(Debug, Default)]
pub(super) struct Owners {
    all: BTreeMap<PolicyRef, Policy>,
    by_label: BTreeMap<String, BTreeMap<String, BTreeSet<PolicyRef>>>,
    by_namespace: BTreeMap<String, BTreeSet<PolicyRef>>,
    anywhere: BTreeSet<PolicyRef>,
    by_service: BTreeMap<ObjectRef, BTreeSet<PolicyRef>>,
    with_node_selector: BTreeSet<PolicyRef>,
}

impl Owners {
    pub(super) fn get(&self, key: &PolicyRef) -> Option<&Policy> {
        self.all.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.all.values()
    }

    /// Puts or removes a policy; whether that changed anything.
    pub(super) fn set(&mut self, key: &PolicyRef, new: Option<Policy>) -> bool {
        if self.all.get(key) == new.as_ref() {
            return false;
        }
        if let Some(old) = self.all.remove(key) {
            self.unindex(&old);
        }
        if let Some(policy) = new {
            self.index(&policy);
            self.all.insert(key.clone(), policy);
        }
        true
    }

    /// Policies whose backend selector matches the pod; those of a node only if it is on `node`, if there is one.
    pub(super) fn selecting<'a>(
        &'a self,
        pod: &'a Pod,
        node: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Policy> {
        let labels = pod.labels.iter().filter_map(|(name, value)| self.by_label.get(name)?.get(value));
        let near = labels.chain(self.by_namespace.get(&pod.namespace)).chain([&self.anywhere]).flatten();
        near.filter_map(|key| self.all.get(key)).filter(move |policy| {
            pod_backend(policy).is_some_and(|(backend, local)| {
                backend.namespace.as_ref().is_none_or(|n| *n == pod.namespace)
                    && (!local || node.is_none_or(|node| pod.node == node))
                    && backend.selector.matches(&pod.labels)
            })
        })
    }

    /// Policies whose frontend is the Service.
    pub(super) fn naming(&self, service: &ObjectRef) -> impl Iterator<Item = &PolicyRef> {
        self.by_service.get(service).into_iter().flatten()
    }

    /// Policies for which the labels of a node matter.
    pub(super) fn with_node_selector(&self) -> impl Iterator<Item = &PolicyRef> {
        self.with_node_selector.iter()
    }

    fn index(&mut self, policy: &Policy) {
        if let Some((backend, _)) = pod_backend(policy) {
            let place = match (backend.selector.labels.first_key_value(), &backend.namespace) {
                (Some((name, value)), _) => {
                    self.by_label.entry(name.clone()).or_default().entry(value.clone()).or_default()
                }
                (None, Some(namespace)) => self.by_namespace.entry(namespace.clone()).or_default(),
                (None, None) => &mut self.anywhere,
            };
            place.insert(policy.id.clone());
        }
        let Ok(spec) = &policy.spec else { return };
        if let FrontendSpec::Service { service, .. } = &spec.frontend {
            self.by_service.entry(service.clone()).or_default().insert(policy.id.clone());
        }
        if spec.node_selector != LabelSelector::default() {
            self.with_node_selector.insert(policy.id.clone());
        }
    }

    fn unindex(&mut self, policy: &Policy) {
        if let Some((backend, _)) = pod_backend(policy) {
            match (backend.selector.labels.first_key_value(), &backend.namespace) {
                (Some((name, value)), _) => {
                    if let Some(values) = self.by_label.get_mut(name) {
                        take(values, value, &policy.id);
                        if values.is_empty() {
                            self.by_label.remove(name);
                        }
                    }
                }
                (None, Some(namespace)) => take(&mut self.by_namespace, namespace, &policy.id),
                (None, None) => drop(self.anywhere.remove(&policy.id)),
            }
        }
        if let Ok(FrontendSpec::Service { service, .. }) = policy.spec.as_ref().map(|spec| &spec.frontend) {
            take(&mut self.by_service, service, &policy.id);
        }
        self.with_node_selector.remove(&policy.id);
    }
}

fn pod_backend(policy: &Policy) -> Option<(&PodBackend, bool)> {
    match &policy.spec.as_ref().ok()?.backend {
        BackendSpec::LocalPods(pods) => Some((pods, true)),
        BackendSpec::Pods { pods, .. } => Some((pods, false)),
        BackendSpec::Addresses { .. } => None,
    }
}

fn take<K: Ord>(map: &mut BTreeMap<K, BTreeSet<PolicyRef>>, key: &K, policy: &PolicyRef) {
    if let Some(set) = map.get_mut(key) {
        set.remove(policy);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
