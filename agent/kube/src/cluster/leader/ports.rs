//! Which policies get which ports at the proxy addresses. They are written as a part of the policies' status.

use std::{collections::BTreeSet, time::Instant};

use super::Leader;
use crate::cluster::{
    fabric,
    ports::{self, Given},
};
use balancing_core::objects::{Policy, PolicyRef, Port};

/// Ports of policies that lead through proxy addresses.
#[derive(Default)]
pub(super) struct PortWork {
    /// Those policies.
    policies: BTreeSet<PolicyRef>,
    given: Given,
    /// The fabric as of the last look.
    range: Option<(u16, u16)>,
    /// A policy has changed since then.
    is_stale: bool,
}

impl Leader<'_> {
    /// Looks at the policies that were touched, and at all when the range is another. Without the fabric nothing is
    /// known of it, and what was given stays.
    pub(super) fn give_ports(&mut self, touched: &BTreeSet<PolicyRef>, now: Instant) {
        let snapshot = self.engine.snapshot();
        for id in touched {
            let is_proxied = snapshot.wanted(id).is_some_and(|policy| !ports::proxied(policy).is_empty());
            let is_other = if is_proxied {
                self.ports.policies.insert(id.clone())
            } else {
                self.ports.policies.remove(id)
            };
            self.ports.is_stale |= is_proxied || is_other;
        }
        if !snapshot.fabric_lacking().is_empty() {
            return;
        }
        let range =
            fabric::in_force(snapshot).and_then(|it| it.spec.as_ref().ok()).map(|spec| spec.proxy_ports);
        if !self.ports.is_stale && range == self.ports.range {
            return;
        }
        let policies: Vec<&Policy> =
            self.ports.policies.iter().filter_map(|id| snapshot.wanted(id)).collect();
        let given = ports::allocate(&policies, &self.ports.given, range);
        let before = std::mem::replace(&mut self.ports.given, given);
        (self.ports.range, self.ports.is_stale) = (range, false);
        let mut changed: BTreeSet<_> = before.keys().chain(self.ports.given.keys()).cloned().collect();
        changed.retain(|id| before.get(id) != self.ports.given.get(id));
        for id in changed {
            self.look_at_status(&id, now);
        }
    }

    /// The ports of a policy, to be told in its status.
    pub(super) fn given_ports<'a>(&'a self, policy: &'a Policy) -> &'a [Port] {
        if self.engine.snapshot().fabric_lacking().is_empty() {
            self.ports.given.get(&policy.id).map(Vec::as_slice).unwrap_or_default()
        } else {
            &policy.proxy_ports
        }
    }
}
