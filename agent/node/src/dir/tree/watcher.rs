//! The kernel's watch on directories.
//!
//! Each directory is watched by itself; which ones is decided by the tree alone. The watcher's own recursion
//! would add a new directory only after somebody may have written to it.

use std::{path::Path, sync::Arc};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::dir::events::Events;

/// A watcher, as soon as the kernel grants one.
pub(in crate::dir) struct Watcher {
    inner: Option<RecommendedWatcher>,
    error: String,
    events: Arc<Events>,
}

impl Watcher {
    /// A watcher that leaves marks in `events`.
    pub(in crate::dir) fn new(events: Arc<Events>) -> Self {
        Self { inner: None, error: String::new(), events }
    }

    /// Asks for a watcher if there is none yet.
    pub(super) fn ensure(&mut self) {
        if self.inner.is_none() {
            let events = Arc::clone(&self.events);
            match notify::recommended_watcher(move |event| events.handle(event)) {
                Ok(watcher) => self.inner = Some(watcher),
                Err(error) => self.error = error.to_string(),
            }
        }
    }

    /// Watches a directory, replacing a watch of that name.
    ///
    /// # Errors
    ///
    /// Why it cannot be watched and what to do, for the user.
    pub(super) fn watch(&mut self, dir: &Path) -> Result<(), String> {
        let Some(watcher) = &mut self.inner else {
            return Err(format!(
                "cannot be watched: {}; raise fs.inotify.max_user_instances, until then changes are seen late",
                self.error
            ));
        };
        // The old watch may be of another directory that had this name: its end would end the new one.
        Self::end(watcher, dir);
        watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|error| match error.kind {
            ErrorKind::MaxFilesWatch => {
                "cannot be watched: too many watches; raise fs.inotify.max_user_watches, \
                 until then changes are seen late"
                    .to_owned()
            }
            ErrorKind::Generic(_)
            | ErrorKind::Io(_)
            | ErrorKind::PathNotFound
            | ErrorKind::WatchNotFound
            | ErrorKind::InvalidConfig(_) => format!("cannot be watched: {error}; changes are seen late"),
        })
    }

    /// Ends the watch of a directory.
    pub(super) fn unwatch(&mut self, dir: &Path) {
        if let Some(watcher) = &mut self.inner {
            Self::end(watcher, dir);
        }
    }

    fn end(watcher: &mut RecommendedWatcher, dir: &Path) {
        if let Err(error) = watcher.unwatch(dir) {
            // The usual case: there was none, or the kernel ended it with the directory.
            tracing::trace!(%error, dir = %dir.display(), "no watch to end");
        }
    }
}
