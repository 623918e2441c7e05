//! Asks the kernel whether what was hooked still is: somebody may detach a link and leave its pin, which no file event tells.

use std::time::{Duration, Instant};

use super::{News, Outcome, Reconciler};
use crate::{attach::CHECK, world::World};

/// Looks for links that are gone. Others make them anew.
#[derive(Debug, Default)]
pub struct LinkCheckReconciler;

impl Reconciler<World> for LinkCheckReconciler {
    fn name(&self) -> &'static str {
        "link check"
    }

    fn listens_to(&self) -> News {
        News::FILLED
    }

    fn period(&self) -> Option<Duration> {
        None
    }

    fn reconcile(&mut self, world: &mut World, _everything: bool) -> (Outcome, News) {
        if !world.filled {
            return (Outcome::Done, News::NONE);
        }
        let missing = world.attacher.check();
        let host = if missing.host { News::HOST_LINKS } else { News::NONE };
        let pods = if missing.pods { News::POD_LINKS } else { News::NONE };
        (Outcome::Again(Instant::now() + CHECK), host | pods)
    }
}
