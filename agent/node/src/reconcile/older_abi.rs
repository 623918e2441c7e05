//! What agents of another ABI left: removed once none of its links is in use.

use std::time::Duration;

use super::{LOOK, NOT_HOOKED, News, Outcome, Reconciler};
use crate::world::World;

/// Removes directories of other ABIs. Their links have been taken over by those who make links.
#[derive(Debug, Default)]
pub struct OlderAbiReconciler;

impl Reconciler<World> for OlderAbiReconciler {
    fn name(&self) -> &'static str {
        "older ABIs"
    }

    fn listens_to(&self) -> News {
        News::HOOKED
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        if !world.hooked {
            return (Outcome::Asleep(NOT_HOOKED), News::NONE);
        }
        let outcome = match world.attacher.remove_older() {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        (outcome, News::NONE)
    }
}
