//! What the log says about the verdicts of a round: few one by one, many in a bounded number of lines.

use std::collections::BTreeMap;

use balancing_core::digest::FEW;
use balancing_core::{
    objects::PolicyRef,
    plan::{Reason, Verdict},
};

/// Verdicts of a round; `None` = the policy is gone.
type Verdicts = BTreeMap<PolicyRef, Option<Verdict>>;

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// A policy is gone.
    Gone(&'a PolicyRef),
    /// A policy is as it should be.
    Good(&'a PolicyRef, &'a Verdict),
    /// A policy has a problem.
    Bad(&'a PolicyRef, &'a Verdict),
    /// So many policies are gone.
    ManyGone(usize),
    /// Policies that are as they should be.
    ManyGood(Sums),
    /// So many policies have a problem with this reason, such as this one.
    ManyBad(Reason, usize, &'a PolicyRef, &'a Verdict),
}

/// What policies come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    policies: usize,
    /// Those of them that decide no frontend now, such as disabled ones.
    idle: usize,
    /// Of each policy, so a frontend of two policies counts twice.
    frontends: usize,
    /// Of each policy, so a backend of two policies counts twice.
    backends: usize,
}

/// Logs the verdicts of a round.
pub(super) fn log(verdicts: &Verdicts) {
    for line in lines(verdicts) {
        match line {
            Line::Gone(policy) => {
                tracing::info!(kind = policy.kind.kind(), name = policy.name, "policy is gone");
            }
            Line::Good(policy, v) => {
                let (frontends, backends) = (v.frontends.len(), v.backends);
                let (kind, name) = (policy.kind.kind(), policy.name.as_str());
                tracing::info!(kind, name, frontends, backends, "{}", v.message);
            }
            Line::Bad(policy, v) => {
                let (kind, name) = (policy.kind.kind(), policy.name.as_str());
                tracing::warn!(kind, name, reason = v.reason.as_str(), "{}", v.message);
            }
            Line::ManyGone(policies) => tracing::info!(policies, "policies are gone"),
            Line::ManyGood(Sums { policies, idle, frontends, backends }) => {
                tracing::info!(policies, idle, frontends, backends, "policies are resolved");
            }
            Line::ManyBad(reason, policies, first, v) => {
                let (kind, name) = (first.kind.kind(), first.name.as_str());
                let reason = reason.as_str();
                tracing::warn!(
                    policies,
                    reason,
                    "policies have a problem, such as {kind} {name}: {}",
                    v.message
                );
            }
        }
    }
}

/// Few verdicts are a line each; many are one for all that are well, and one for each reason of problems.
fn lines(verdicts: &Verdicts) -> Vec<Line<'_>> {
    let each = verdicts.iter().map(|(policy, verdict)| match verdict {
        None => Line::Gone(policy),
        Some(v) if is_good(v) => Line::Good(policy, v),
        Some(v) => Line::Bad(policy, v),
    });
    if verdicts.len() <= FEW { each.collect() } else { summary(each) }
}

fn is_good(verdict: &Verdict) -> bool {
    verdict.accepted && verdict.resolved_refs && verdict.conflicts_with.is_empty()
}

fn summary<'a>(each: impl Iterator<Item = Line<'a>>) -> Vec<Line<'a>> {
    let (mut gone, mut good) = (0, Sums::default());
    let mut bad = BTreeMap::<Reason, (usize, &PolicyRef, &Verdict)>::new();
    for line in each {
        match line {
            Line::Good(_, v) => {
                good.policies += 1;
                good.idle += usize::from(v.frontends.is_empty());
                good.frontends += v.frontends.len();
                good.backends += v.backends;
            }
            Line::Bad(policy, v) => bad.entry(v.reason).or_insert((0, policy, v)).0 += 1,
            _ => gone += 1,
        }
    }
    let gone = (gone > 0).then_some(Line::ManyGone(gone));
    let good = (good.policies > 0).then_some(Line::ManyGood(good));
    let bad = bad.into_iter().map(|(reason, (count, policy, v))| Line::ManyBad(reason, count, policy, v));
    gone.into_iter().chain(good).chain(bad).collect()
}

#[cfg(test)]
mod tests {
    use balancing_dataplane::model::{FrontendKey, PolicyKind, Protocol};

    use super::*;

    fn policy(number: usize) -> PolicyRef {
        PolicyRef { kind: PolicyKind::Balancing, name: format!("p{number:05}") }
    }

    fn verdict(reason: Reason, frontends: u16) -> Verdict {
        let key = |port| FrontendKey { protocol: Protocol::Tcp, address: [10, 0, 0, 1].into(), port };
        Verdict {
            service_id: 1,
            generation: 1,
            accepted: reason != Reason::InvalidSpec,
            takes_part: true,
            resolved_refs: reason != Reason::ServiceNotFound,
            conflicts_with: if reason == Reason::Conflicted { [policy(0)].into() } else { [].into() },
            reason,
            left_alone: Vec::new(),
            message: format!("it is {}", reason.as_str()),
            frontends: (1..=frontends).map(|port| (key(port), 3)).collect(),
            backends: 3,
            redirects: true,
        }
    }

    fn many(reasons: &[(usize, Reason)]) -> Verdicts {
        let each = reasons.iter().flat_map(|(count, reason)| std::iter::repeat_n(*reason, *count));
        each.enumerate().map(|(number, reason)| (policy(number), Some(verdict(reason, 2)))).collect()
    }

    #[test]
    fn few_verdicts_are_told_one_by_one() {
        let mut verdicts = many(&[(FEW - 2, Reason::Applied), (1, Reason::Conflicted)]);
        verdicts.insert(policy(99), None);
        let lines = lines(&verdicts);
        assert_eq!(lines.len(), FEW);
        assert!(matches!(lines[0], Line::Good(p, _) if *p == policy(0)), "{:?}", lines[0]);
        assert!(matches!(lines[FEW - 2], Line::Bad(p, _) if *p == policy(FEW - 2)));
        assert_eq!(lines[FEW - 1], Line::Gone(&policy(99)));
    }

    #[test]
    fn many_verdicts_are_a_summary_and_a_line_for_each_reason() {
        let mut verdicts = many(&[
            (30_000, Reason::Applied),
            (2_000, Reason::InvalidSpec),
            (1, Reason::ServiceNotFound),
            (10, Reason::Conflicted),
        ]);
        verdicts.insert(policy(50_000), Some(verdict(Reason::Disabled, 0)));
        verdicts.extend((60_000..60_500).map(|number| (policy(number), None)));
        let [invalid, missing, conflicted] = [30_000, 32_000, 32_001].map(policy);
        let sums = Sums { policies: 30_001, idle: 1, frontends: 60_000, backends: 90_003 };
        let of = |policy: &PolicyRef| verdicts[policy].as_ref().unwrap();
        assert_eq!(
            lines(&verdicts),
            [
                Line::ManyGone(500),
                Line::ManyGood(sums),
                Line::ManyBad(Reason::InvalidSpec, 2_000, &invalid, of(&invalid)),
                Line::ManyBad(Reason::ServiceNotFound, 1, &missing, of(&missing)),
                Line::ManyBad(Reason::Conflicted, 10, &conflicted, of(&conflicted)),
            ]
        );
    }

    #[test]
    fn what_did_not_happen_has_no_line() {
        assert_eq!(lines(&Verdicts::new()), []);
        let gone: Verdicts = (0..=FEW).map(|number| (policy(number), None)).collect();
        assert_eq!(lines(&gone), [Line::ManyGone(FEW + 1)]);
        assert_eq!(lines(&many(&[(FEW + 1, Reason::InvalidSpec)])).len(), 1);
    }
}
