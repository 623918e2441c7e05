//! The names of policies in the kernel's tables, which commands show while no agent runs. Nothing depends on them, so a
//! failure is only told, and only once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use balancing_dataplane::{
    model::PolicyName,
    tables::{TableError, Tables},
};

use balancing_core::{
    kinds::{Lacking, lacks_policies},
    objects::PolicyRef,
    plan::Verdict,
    resolve::Engine,
};

/// Keeps the names as the verdicts are.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// What was lacking when names that an earlier agent left for policies that are gone were removed; `None` = never.
    swept: Option<Lacking>,
    missing: Missing,
}

/// Policies whose name could not be written or removed.
#[derive(Debug, Default)]
struct Missing {
    known: BTreeSet<PolicyRef>,
    /// How many of them are not told yet, and what the first of these says.
    news: Option<(usize, String)>,
}

impl Names {
    /// Writes the names that changed; the engine knows all policies.
    pub(super) fn keep(
        &mut self,
        tables: &mut Tables,
        changed: &BTreeMap<PolicyRef, Option<Verdict>>,
        engine: &Engine,
    ) {
        let lacking = engine.snapshot().lacking();
        if self.swept.as_ref() != Some(lacking) {
            self.swept = Some(lacking.clone());
            // First, so that there is room for the others.
            sweep(tables, engine.verdicts(), lacking);
        }
        let current: BTreeSet<u32> = changed.values().flatten().map(|v| v.service_id).collect();
        for (policy, verdict) in changed {
            let result = write(tables, policy, verdict.as_ref(), &current);
            self.missing.note(policy, result, verdict.is_some());
        }
        if let Some((policies, first)) = self.missing.news.take() {
            tracing::warn!(policies, "`balancingctl frontends` cannot name policies: {first}");
        }
    }
}

impl Missing {
    /// Takes in what became of a name. A policy that is known to have none is no news; one that is gone is forgotten.
    fn note(&mut self, policy: &PolicyRef, result: Result<(), impl Display>, exists: bool) {
        match result {
            Err(error) if self.known.insert(policy.clone()) => {
                self.news.get_or_insert_with(|| (0, error.to_string())).0 += 1;
            }
            Err(_) => {}
            Ok(()) => drop(self.known.remove(policy)),
        }
        if !exists {
            self.known.remove(policy);
        }
    }
}

fn write(
    tables: &mut Tables,
    policy: &PolicyRef,
    verdict: Option<&Verdict>,
    current: &BTreeSet<u32>,
) -> Result<(), TableError> {
    let name = PolicyName { kind: policy.kind, name: policy.name.clone() };
    if let Some(verdict) = verdict {
        return tables.set_policy(verdict.service_id, Some(&name));
    }
    let policies = tables.policies().iter();
    let mut old = policies.filter(|(id, known)| **known == name && !current.contains(id));
    let id = old.next().map(|(id, _)| *id);
    id.map_or(Ok(()), |id| tables.set_policy(id, None))
}

/// Policies of a kind that has not been listed may exist although they are not known.
fn sweep(tables: &mut Tables, all: &BTreeMap<PolicyRef, Verdict>, lacking: &Lacking) {
    let current: BTreeSet<u32> = all.values().map(|v| v.service_id).collect();
    let named = tables.policies().iter().filter(|(_, name)| !lacks_policies(lacking, name.kind));
    let stale: Vec<u32> = named.map(|(id, _)| *id).filter(|id| !current.contains(id)).collect();
    let results = stale.into_iter().map(|id| tables.set_policy(id, None));
    let mut failed = results.filter_map(Result::err);
    if let Some(first) = failed.next() {
        let names = failed.count() + 1;
        tracing::warn!(names, "names of policies that are gone stay: {first}");
    }
}

#[cfg(test)]
mod tests {
    use balancing_dataplane::model::PolicyKind;

    use super::*;

    fn policy(number: usize) -> PolicyRef {
        PolicyRef { kind: PolicyKind::LocalRedirect, name: format!("p{number}") }
    }

    fn full(number: usize) -> Result<(), String> {
        Err(format!("no room for {number}"))
    }

    #[test]
    fn a_full_table_is_told_once_with_the_number_and_the_first_policy() {
        let mut missing = Missing::default();
        missing.note(&policy(7), Ok::<(), String>(()), true);
        (0..40_000).for_each(|number| missing.note(&policy(number), full(number), true));
        assert_eq!(missing.news.take(), Some((40_000, "no room for 0".to_owned())));
        (0..40_000).for_each(|number| missing.note(&policy(number), full(number), true));
        assert_eq!(missing.news.take(), None, "nothing has changed");
        missing.note(&policy(40_000), full(40_000), true);
        assert_eq!(missing.news.take(), Some((1, "no room for 40000".to_owned())));
    }

    #[test]
    fn what_was_written_or_is_gone_is_news_when_it_fails_again() {
        let mut missing = Missing::default();
        for (result, exists) in [(Ok::<(), String>(()), true), (Ok(()), false)] {
            missing.note(&policy(1), full(1), true);
            assert!(missing.news.take().is_some());
            missing.note(&policy(1), result, exists);
            assert!(missing.known.is_empty());
        }
        missing.note(&policy(1), full(1), false);
        assert_eq!(missing.news.take(), Some((1, "no room for 1".to_owned())));
        assert!(missing.known.is_empty(), "who is gone takes no room");
    }
}
