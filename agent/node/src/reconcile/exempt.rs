//! Clients that are never redirected, whatever the policy.

use std::time::Duration;

use super::{News, Outcome, Reconciler};
use crate::world::World;

/// Writes down who is exempt.
#[derive(Debug, Default)]
pub struct ExemptReconciler;

impl Reconciler<World> for ExemptReconciler {
    fn name(&self) -> &'static str {
        "exempt clients"
    }

    fn listens_to(&self) -> News {
        News::EXEMPT
    }

    fn period(&self) -> Option<Duration> {
        None
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        // Until the pods have been looked at the kernel keeps what an earlier agent wrote.
        let Some(exempt) = &world.exempt else { return (Outcome::Done, News::NONE) };
        let outcome = match world.owner.set_exempt(exempt) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        (outcome, News::NONE)
    }
}
