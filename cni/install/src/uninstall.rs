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
    #[error(
        "CRI-O calls it when the pods of these results end: wait for that, and remove those of pods that are no more. containerd does \
         not, which is believed where it answers (--cri-socket), has loaded a network without it, and there is no /run/crio: {}", .0.join(", ")
    )]
    Pods(Vec<String>),
    /// Results of something else, or that cannot be read.
    #[error(
        "it may be called when the containers of these end, which are not of the runtime (Multus, Podman) or cannot be read: wait for \
         that, and remove those of containers that are no more: {}", .0.join(", ")
    )]
    Results(Vec<String>),
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
    Without {
        /// It is containerd, and there is nothing of another runtime.
        is_containerd_alone: bool,
    },
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
        let (loaded, is_told, is_containerd_alone) = match settle() {
            Some(Told::Held(held)) => (Some(held), false, false),
            Some(Told::Without { is_containerd_alone }) => (None, true, is_containerd_alone),
            None => (None, false, false),
        };
        let named = match self.present()? {
            Some(seen) => named(&seen, &store::drop_ins(&self.net_dir)),
            None => (!is_told).then(|| self.unseen()),
        };
        let remembered = self.remembered(is_containerd_alone);
        let held: Vec<Held> = loaded.into_iter().chain(named).chain(remembered).collect();
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

    /// Whether containers that started with ours still need it. The pods of containerd do not, which calls what it has loaded; that
    /// it is the runtime at all is proved by itself only (`is_containerd_alone`).
    fn remembered(&self, is_containerd_alone: bool) -> Vec<Held> {
        let is_containerd = is_containerd_alone && self.runtime == Runtime::Containerd;
        // Results that are not there are none where nobody goes by them.
        match cache::references(&self.host, is_containerd) {
            Ok(found) => {
                let (pods, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.pod.is_some());
                let names = |found: Vec<cache::Reference>| found.into_iter().map(in_words).collect();
                let pods = (!pods.is_empty() && !is_containerd).then(|| Held::Pods(names(pods)));
                let others = (!others.is_empty()).then(|| Held::Results(names(others)));
                pods.into_iter().chain(others).collect()
            }
            Err(error) => vec![Held::Unseen(format!(
                "{error}: in a container mount that directory (read-only is enough); where the host has none, create it, empty"
            ))],
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
