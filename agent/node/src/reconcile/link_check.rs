//! Asks the kernel whether what was hooked still is: somebody may detach a link and leave its pin, which no file event tells.

use std::time::{Duration, Instant};

use super::{News, Outcome, Reconciler};
use crate::world::World;

/// Looks for links that are gone. Others make them anew.
#[derive(Debug, Default)]
pub struct LinkCheckReconciler;

impl Reconciler<World> for LinkCheckReconciler {
    fn name(&self) -> &'static str {
        "link check"
    }

    fn listens_to(&self) -> News {
        News::HOOKED
    }

    fn period(&self) -> Option<Duration> {
        None
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        if !world.filled {
            return (Outcome::Done, News::NONE);
        }
        let (missing, next) = world.attacher.check(Instant::now());
        let news = if missing { News::POD_LINKS | News::HOST_LINKS } else { News::NONE };
        (Outcome::Again(next), news)
    }
}
