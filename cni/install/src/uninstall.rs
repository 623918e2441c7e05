//! Takes the plugin off a node: out of the configuration, then its binary, once nobody calls it any more.
//!
//! A binary too many harms nobody; one too few keeps pods from starting or ending. So whatever is not proved keeps it.

use std::io::ErrorKind;

use crate::{
    binary, cache,
    conflist::PLUGIN,
    directory::{File, Runtime, kind_of},
    keeper::{Error, Settings},
    placement::{Directory, REPLACED, left_behind},
    store, temporary,
};

/// Why the binary stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// Results of pods that started with it.
    #[error("the runtime calls it when these pods end, so wait for that: {}", .0.join(", "))]
    Pods(Vec<String>),
    /// Files that a runtime may read.
    #[error("{} still has it, or cannot be read: take it out there", .0.join(", "))]
    Named(Vec<String>),
    /// The runtime goes on with what it has loaded.
    #[error("the runtime has it loaded all the same: restart the runtime")]
    Loaded,
    /// Nobody can tell.
    #[error("whether pods need it cannot be seen: {0}")]
    Unseen(String),
}

impl Settings {
    /// Takes the plugin out of the configuration, then removes its binary, unless somebody still calls it or may do so; empty = it
    /// is removed. `settle` waits in between, until the runtime has noticed and calls that have begun are over.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn uninstall(&self, settle: impl FnOnce() -> Option<Held>) -> Result<Vec<Held>, Error> {
        self.unclaimed()?;
        let _lock = self.lock()?;
        for directory in [&self.net_dir, &self.bin_dir].into_iter().filter(|directory| directory.is_dir()) {
            temporary::sweep(directory)?;
        }
        self.sweep_drop_ins();
        self.take_out()?;
        for file in left_behind(&self.present()?) {
            let name = file.trim_end_matches(REPLACED);
            tracing::warn!(
                "{file} is left: the list that was made of it has been changed or removed since. Rename it to {name} where that network is \
                 still wanted and no other file has it, else remove it"
            );
        }
        let loaded = settle();
        let held: Vec<Held> =
            [loaded, named(&self.present()?), self.remembered()].into_iter().flatten().collect();
        if held.is_empty() && self.bin_dir.is_dir() {
            binary::remove(&self.bin_dir)?;
        }
        Ok(held)
    }

    /// The directory of configurations; one that is gone is empty.
    pub(crate) fn present(&self) -> Result<Directory, Error> {
        match store::read(&self.net_dir) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(Directory::default()),
            read => Ok(read?),
        }
    }

    /// Whether the runtime remembers pods of ours.
    fn remembered(&self) -> Option<Held> {
        match cache::references(&self.host) {
            Ok(names) if names.is_empty() => None,
            Ok(names) => Some(Held::Pods(names)),
            // containerd's DEL goes by the configuration of now, so a cache that is not there is none.
            Err(error)
                if error.source.kind() == ErrorKind::NotFound
                    && self.runtime_is_known
                    && self.runtime == Runtime::Containerd =>
            {
                None
            }
            Err(error) => {
                let else_named = if self.runtime_is_known {
                    ""
                } else {
                    ", or say --cni-runtime containerd where that is the runtime"
                };
                Some(Held::Unseen(format!("{error}: mount that directory (read-only is enough){else_named}")))
            }
        }
    }
}

/// Files that still name ours: those in which it is alone, broken ones, copies that others have made of a list.
fn named(seen: &Directory) -> Option<Held> {
    let needle = format!("\"{PLUGIN}\"");
    // One that cannot be read may name it.
    let names = |file: &&File| file.text.as_ref().map_or(true, |text| text.contains(&needle));
    let counted = seen.files.iter().filter(|file| kind_of(&file.name).is_some());
    let names: Vec<String> = counted.filter(names).map(|file| file.name.clone()).collect();
    (!names.is_empty()).then_some(Held::Named(names))
}
