//! What commands and the plugin find by its name: pins of the tables, and the settings of the node.

use std::time::Duration;

use super::{LOOK, News, Outcome, Reconciler};
use crate::world::World;

/// Puts back what somebody has taken away.
#[derive(Debug, Default)]
pub struct PinsReconciler;

impl Reconciler<World> for PinsReconciler {
    fn name(&self) -> &'static str {
        "pins"
    }

    fn listens_to(&self) -> News {
        News::FILLED
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        let outcome = match world.found_by_name.mend() {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        (outcome, News::NONE)
    }
}
