//! The tables of frontends: as the policies want them.

use std::time::Duration;

use super::{LOOK, News, Outcome, Reconciler};
use crate::world::World;

/// Programs what changed, and what failed before.
#[derive(Debug, Default)]
pub struct TablesReconciler;

impl Reconciler<World> for TablesReconciler {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn listens_to(&self) -> News {
        News::OBJECTS | News::IDENTITIES
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        match world.must_wait() {
            Ok(None) => {}
            Ok(Some(why)) => return (Outcome::Asleep(why), News::NONE),
            Err(error) => return (Outcome::Failed(error.to_string()), News::NONE),
        }
        let done = world.owner.program();
        match world.must_wait_for_slices() {
            Ok(None) => {}
            Ok(Some((why, until))) => return (Outcome::AsleepUntil(why, until), News::NONE),
            Err(error) => return (Outcome::Failed(error.to_string()), News::NONE),
        }
        // Frontends that do not fit must not keep the others from being used.
        let news = if world.filled {
            News::NONE
        } else {
            world.owner.resume();
            News::FILLED
        };
        world.filled = true;
        (if done { Outcome::Done } else { Outcome::Failed(world.owner.problems().join("; ")) }, news)
    }
}
