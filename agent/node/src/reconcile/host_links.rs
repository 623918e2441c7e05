//! The links at the cgroup root, for processes of the host.

use std::time::Duration;

use super::{LOOK, NOT_FILLED, News, Outcome, Reconciler};
use crate::world::World;

/// Makes and mends the host's links, or takes them away where the host is not to be hooked.
#[derive(Debug, Default)]
pub struct HostLinksReconciler;

impl Reconciler<World> for HostLinksReconciler {
    fn name(&self) -> &'static str {
        "host links"
    }

    fn listens_to(&self) -> News {
        News::FILLED | News::HOST_LINKS
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        if !world.filled {
            return (Outcome::Asleep(NOT_FILLED), News::NONE);
        }
        let pods: Vec<_> = world.owner.engine().snapshot().pods_on(&world.node).collect();
        match world.attacher.attach_host(&pods) {
            Ok(()) => {
                world.hooked = true;
                (Outcome::Done, News::HOOKED)
            }
            Err(error) => (Outcome::Failed(error.to_string()), News::NONE),
        }
    }
}
