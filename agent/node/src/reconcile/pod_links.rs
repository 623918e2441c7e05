//! The links at the cgroups of local pods, and by what the pods are recognised.

use std::{collections::BTreeSet, time::Duration};

use balancing_core::{digest::FEW, kinds::ObjectKind, resolve::Role};

use super::{LOOK, NOT_LISTED, News, Outcome, Reconciler};
use crate::world::World;

/// Looks at the pods. By what they are recognised must be known before the tables are filled, also after a restart; their links
/// are made after that.
#[derive(Debug, Default)]
pub struct PodLinksReconciler {
    /// The tables were filled when the pods were looked at last.
    filled: bool,
}

impl Reconciler<World> for PodLinksReconciler {
    fn name(&self) -> &'static str {
        "pod links"
    }

    fn listens_to(&self) -> News {
        News::PODS | News::FILLED | News::POD_LINKS
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, everything: bool) -> (Outcome, News) {
        if !world.owner.is_synced() {
            return (Outcome::Asleep(NOT_LISTED), News::NONE);
        }
        let everything = everything || world.filled != self.filled;
        let refreshed = if world.filled && everything { world.attacher.refresh_pods() } else { Ok(()) };
        // After a failure everything is looked at again.
        self.filled = world.filled && refreshed.is_ok();
        let looked = look(world, everything);
        // What nobody looks at is nothing to come back for.
        let next = looked.and_then(|_| world.attacher.next_look());
        let (problems, news) = (world.attacher.problems(), looked.unwrap_or(News::NONE));
        let outcome = match (refreshed, next) {
            (Err(error), _) => Outcome::Failed(error.to_string()),
            (Ok(()), next) if !problems.is_empty() => Outcome::Partly(digest(&problems), next),
            (Ok(()), Some(at)) => Outcome::Again(at),
            (Ok(()), None) => Outcome::Done,
        };
        (outcome, if self.filled { news | News::HOOKED } else { news })
    }
}

/// A few by name, and how many there are more.
fn digest(problems: &[String]) -> String {
    let mut text = problems.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join("; ");
    if let Some(more) = problems.len().checked_sub(FEW).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// What that is news of; `None`: the pods are not known.
fn look(world: &mut World, everything: bool) -> Option<News> {
    // Pods that are not known are not gone: they keep their links, and who is exempt stays so.
    if world.role == Role::External || world.owner.lacking().contains(&ObjectKind::Pod) {
        return None;
    }
    let pods: Vec<_> = world.owner.engine().snapshot().pods_on(&world.node).collect();
    let observed = world.attacher.look(&pods, everything, world.filled);
    let mut news = News::NONE;
    for (uid, ids) in observed.identities {
        world.owner.set_identities(&uid, ids);
        news |= News::IDENTITIES;
    }
    for (uid, containers) in observed.ended {
        if world.owner.set_ended(uid.as_str(), containers) {
            // Also what the proxy forwards.
            news |= News::IDENTITIES | News::PROXY;
        }
    }
    let known: Option<BTreeSet<_>> = observed.exempt;
    if known.is_some() {
        world.exempt = known;
        news |= News::EXEMPT;
    }
    Some(news)
}
