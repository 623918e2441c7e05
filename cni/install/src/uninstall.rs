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
    #[error("it is called when the pods of these results end, so wait for that: {}", .0.join(", "))]
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

/// What the runtime tells once ours has left the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has loaded a network without ours.
    Without,
    /// The binary stays.
    Held(Held),
}

impl Settings {
    /// Takes the plugin out of the configuration, then removes its binary, unless somebody still calls it or may do so; empty = it
    /// is removed. `settle` waits in between, until the runtime has noticed and calls that have begun are over; `None` = it does not
    /// tell what it has loaded.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn uninstall(&self, settle: impl FnOnce() -> Option<Told>) -> Result<Vec<Held>, Error> {
        self.unclaimed()?;
        let _lock = self.lock()?;
        for directory in [&self.net_dir, &self.bin_dir].into_iter().filter(|directory| directory.is_dir()) {
            temporary::sweep(directory)?;
        }
        self.sweep_drop_ins();
        self.take_out()?;
        for file in self.present()?.iter().flat_map(left_behind) {
            let name = file.trim_end_matches(REPLACED);
            tracing::warn!(
                "{file} is left: the list that was made of it has been changed or removed since. Rename it to {name} where that network is \
                 still wanted and no other file has it, else remove it"
            );
        }
        let (loaded, is_told) = match settle() {
            Some(Told::Held(held)) => (Some(held), false),
            told => (None, told.is_some()),
        };
        let named = match self.present()? {
            Some(seen) => named(&seen, &store::drop_ins(&self.net_dir)),
            None => (!is_told).then(|| self.unseen()),
        };
        let held: Vec<Held> = [loaded, named, self.remembered()].into_iter().flatten().collect();
        if held.is_empty() && self.bin_dir.is_dir() {
            binary::remove(&self.bin_dir)?;
        }
        Ok(held)
    }

    /// The directory of configurations; `None` = it is not there.
    pub(crate) fn present(&self) -> Result<Option<Directory>, Error> {
        match store::read(&self.net_dir) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// A directory that is not there may be another than the runtime's.
    fn unseen(&self) -> Held {
        Held::Unseen(format!(
            "{} is not there, which is from {}: give the one that the runtime uses, in a container mount it; where the network is \
             removed for good, remove {} by hand",
            self.net_dir.display(),
            self.origins[0],
            self.bin_dir.join(PLUGIN).display()
        ))
    }

    /// Whether pods that started with ours still need it. Those of containerd do not, which calls what it has loaded, so that there
    /// a cache that is not there is none, too.
    fn remembered(&self) -> Option<Held> {
        let is_containerd = self.runtime_is_known && self.runtime == Runtime::Containerd;
        match cache::references(&self.host) {
            Ok(found) => {
                let counts = |one: &cache::Reference| one.pod.is_none() || !is_containerd;
                let names: Vec<String> = found.into_iter().filter(counts).map(in_words).collect();
                match (names.is_empty(), self.runtime_is_known) {
                    (true, _) => None,
                    (false, true) => Some(Held::Pods(names)),
                    (false, false) => Some(Held::Unseen(format!(
                        "CRI-O calls it when the pods of these results end, containerd does not: wait for that, or say --cni-runtime \
                         containerd where that is the runtime: {}",
                        names.join(", ")
                    ))),
                }
            }
            Err(error) if error.source.kind() == ErrorKind::NotFound && is_containerd => None,
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

fn in_words(found: cache::Reference) -> String {
    match found.pod {
        Some(pod) => format!("{} ({pod})", found.name),
        None => found.name,
    }
}

/// Files that still name ours: those in which it is alone, broken ones, copies that others have made of a list, drop-ins of others.
fn named(seen: &Directory, drop_ins: &[File]) -> Option<Held> {
    let needle = format!("\"{PLUGIN}\"");
    // One that cannot be read may name it.
    let names = |file: &&File| file.text.as_ref().map_or(true, |text| text.contains(&needle));
    let counted = seen.files.iter().filter(|file| kind_of(&file.name).is_some()).chain(drop_ins);
    let names: Vec<String> = counted.filter(names).map(|file| file.name.clone()).collect();
    (!names.is_empty()).then_some(Held::Named(names))
}

#[cfg(test)]
mod tests;
