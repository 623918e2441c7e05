//! Where our plugin is put, and by which steps.
//!
//! Three ways, never two at once: *inline*, in the list that the primary plugin wrote; as a *drop-in*, a file in a directory of
//! the network's name, which newer runtimes append to the list; as a *copy* of the primary's list whose name sorts first.
//! Decided from what the directory holds; every plan is tried on a model of the directory before anybody carries it out. Pure.

use crate::{
    conflist::{Conflist, PLUGIN, Place, SPOKEN},
    directory::{File, Kind, Network, NoNetwork, Runtime, network},
};

/// Our copy of the primary's list: it sorts before what plugins usually write.
pub const COPY: &str = "00-balancing.conflist";
/// Our file in the directory of a network.
pub const DROP_IN: &str = "99-balancing.conf";
/// Its daemon makes its list anew from the first one that is not its own: a copy in front of it would go into the original.
const MULTUS: [&str; 2] = ["multus", "multus-shim"];
/// A single configuration that a list of ours has replaced keeps its name with this; runtimes do not load it.
pub const REPLACED: &str = ".replaced-by-balancing";

/// One of the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the primary's list.
    Inline,
    /// Beside it.
    DropIn,
    /// In front of it.
    Copy,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The way.
    pub mode: Mode,
    /// How the runtime chooses.
    pub runtime: Runtime,
    /// Our entry, as JSON.
    pub entry: String,
    /// Its place in a list. A drop-in comes last.
    pub place: Place,
}

/// The directory as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Its files.
    pub files: Vec<File>,
    /// Our files in directories of networks, by the network's name.
    pub drop_ins: Vec<File>,
}

/// A change. Paths are relative to the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Replace a file by rename. Mode and owner are those of another one.
    Write {
        /// What is written.
        file: String,
        /// Its text.
        text: String,
        /// The model of mode and owner, and the file that must not have changed meanwhile.
        like: String,
    },
    /// Rename a file.
    Rename {
        /// Its name.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Remove a file.
    Remove(String),
    /// Write our file into the directory of a network, and let the runtime notice.
    PutDropIn {
        /// The network.
        network: String,
        /// The text.
        text: String,
    },
    /// Remove our file from the directory of a network, and let the runtime notice.
    RemoveDropIn(String),
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// There is nothing to join.
    #[error(transparent)]
    NoNetwork(#[from] NoNetwork),
    /// Our plugin would refuse every call.
    #[error(
        "{file} {has}; our plugin speaks {spoken} and would keep every pod from starting: let the primary plugin write one of these",
        has = version_in_words(version), spoken = SPOKEN.join(", ")
    )]
    Version {
        /// The file that counts.
        file: String,
        /// Its version; empty = none.
        version: String,
    },
    /// Runtimes and plugins, ours among them, refuse every call.
    #[error(
        "the name of {file}, {name:?}, is none that runtimes take: it has to begin with a letter or digit and hold only letters, \
         digits, `_`, `.` and `-`; let the primary plugin write such a one"
    )]
    Name {
        /// The file that counts.
        file: String,
        /// Its name.
        name: String,
    },
    /// The place that is wanted is the first one.
    #[error(
        "{kind} is the first plugin of {file}, and ours cannot stand before the one that makes the network: use --cni-place last, or name another plugin"
    )]
    First {
        /// The file that counts.
        file: String,
        /// The plugin before which ours is wanted.
        kind: String,
    },
    /// Two programs would each copy the other's list.
    #[error(
        "{file} is of Multus, which takes a copy of it for the primary's list, and copies that: use --cni-mode auto or inline"
    )]
    CopyOfMultus {
        /// The file that counts.
        file: String,
    },
    /// A drop-in would not be read.
    #[error("a drop-in would not be read: {0}; use another mode")]
    NoDropIn(String),
    /// Runtimes would not take what would be written.
    #[error("{file} would still be used by the runtime instead of {ours}; rename it or use another mode")]
    Ineffective {
        /// The file that wins.
        file: String,
        /// The one that should.
        ours: String,
    },
}

impl NoPlan {
    /// Whether ours must not stay where it is either.
    #[must_use]
    pub fn is_harm(&self) -> bool {
        match self {
            Self::Version { .. } | Self::Name { .. } | Self::First { .. } | Self::CopyOfMultus { .. } => true,
            Self::NoNetwork(_) | Self::NoDropIn(_) | Self::Ineffective { .. } => false,
        }
    }
}

fn version_in_words(version: &str) -> String {
    if version.is_empty() { "has no cniVersion".to_owned() } else { format!("has cniVersion {version}") }
}

impl Directory {
    /// What pods get, our plugin's drop-in included: the types in their order.
    ///
    /// # Errors
    /// When they get no network.
    pub fn chain(&self, runtime: Runtime) -> Result<Vec<String>, NoNetwork> {
        let found = network(&self.files, runtime)?;
        let Ok(list) = Conflist::parse(&found.list) else { return Ok(Vec::new()) };
        let has_drop_in = found.kind == Kind::List
            && !list.only_inlined
            && self.drop_ins.iter().any(|drop_in| drop_in.name == list.name);
        Ok(list.types().chain(has_drop_in.then_some(PLUGIN)).map(str::to_owned).collect())
    }

    /// The directory after some steps.
    #[must_use]
    pub fn after(&self, steps: &[Step]) -> Self {
        let mut after = self.clone();
        for step in steps {
            match step {
                Step::Write { file, text, .. } => put(&mut after.files, file, text.clone()),
                Step::PutDropIn { network, text } => put(&mut after.drop_ins, network, text.clone()),
                Step::Remove(name) => after.files.retain(|file| file.name != *name),
                Step::RemoveDropIn(name) => after.drop_ins.retain(|file| file.name != *name),
                Step::Rename { from, to } => {
                    after.files.retain(|file| file.name != *to);
                    for file in after.files.iter_mut().filter(|file| file.name == *from) {
                        file.name.clone_from(to);
                    }
                }
            }
        }
        after
    }

    pub(crate) fn file(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|file| file.name == name)?.text.as_deref().ok()
    }

    pub(crate) fn drop_in(&self, network: &str) -> Option<&str> {
        self.drop_ins.iter().find(|file| file.name == network)?.text.as_deref().ok()
    }
}

/// The steps that make the directory as it is wanted; none when it is.
///
/// # Errors
/// When there is nothing to join, or what would be written would have no effect.
pub fn plan(directory: &Directory, wanted: &Wanted) -> Result<Vec<Step>, NoPlan> {
    // What ours stands on is what would be there without our copy.
    let primary = directory.after(&[Step::Remove(COPY.to_owned())]);
    let base = network(&primary.files, wanted.runtime)?;
    harmless(&base, wanted)?;
    let (target, own) = match wanted.mode {
        Mode::Inline => inline(&base, wanted),
        Mode::DropIn => drop_in(&base, wanted, directory)?,
        Mode::Copy => copy(&base, wanted, directory),
    };
    let mut steps = leave_other_ways(directory, &base, wanted.mode);
    steps.extend(own);
    let after = directory.after(&steps);
    let effective = network(&after.files, wanted.runtime)?;
    if effective.file != target {
        return Err(NoPlan::Ineffective { file: effective.file, ours: target });
    }
    Ok(steps)
}

/// Whether ours may be in what pods get.
fn harmless(base: &Network, wanted: &Wanted) -> Result<(), NoPlan> {
    let Ok(list) = Conflist::parse(&base.list) else { return Ok(()) };
    if !list.is_spoken() {
        return Err(NoPlan::Version { file: base.file.clone(), version: list.version });
    }
    // A drop-in's directory has this name, too.
    if !list.is_named() {
        return Err(NoPlan::Name { file: base.file.clone(), name: list.name });
    }
    if let (Place::Before(kind), true) = (&wanted.place, list.would_lead(&wanted.place)) {
        return Err(NoPlan::First { file: base.file.clone(), kind: kind.clone() });
    }
    if wanted.mode == Mode::Copy && list.types().any(|kind| MULTUS.contains(&kind)) {
        return Err(NoPlan::CopyOfMultus { file: base.file.clone() });
    }
    Ok(())
}

/// The steps that take ours out of everything.
#[must_use]
pub fn removal(directory: &Directory) -> Vec<Step> {
    let mut steps = remove_drop_ins(directory, None);
    if directory.files.iter().any(|file| file.name == COPY) {
        steps.push(Step::Remove(COPY.to_owned()));
    }
    for file in directory.files.iter().filter(|file| file.name != COPY) {
        steps.extend(take_out(directory, file));
    }
    steps
}

/// The file that counts, and how ours gets into it.
fn inline(base: &Network, wanted: &Wanted) -> (String, Vec<Step>) {
    let text = edited(&base.list, wanted);
    match (base.kind, text) {
        (Kind::List, None) => (base.file.clone(), Vec::new()),
        (Kind::List, Some(text)) => {
            (base.file.clone(), vec![Step::Write { file: base.file.clone(), text, like: base.file.clone() }])
        }
        (Kind::Single, text) => {
            // It sorts right behind the file that it replaces, which counts until it is renamed.
            let file = format!("{}.conflist", base.file);
            let text = text.unwrap_or_else(|| base.list.clone());
            let write = Step::Write { file: file.clone(), text, like: base.file.clone() };
            let rename = Step::Rename { from: base.file.clone(), to: format!("{}{REPLACED}", base.file) };
            (file, vec![write, rename])
        }
    }
}

fn drop_in(base: &Network, wanted: &Wanted, directory: &Directory) -> Result<(String, Vec<Step>), NoPlan> {
    let refused = |why: &str| Err(NoPlan::NoDropIn(format!("{}: {why}", base.file)));
    if base.kind == Kind::Single {
        return refused("it is no list");
    }
    let Ok(list) = Conflist::parse(&base.list) else { return refused("it is broken") };
    if list.only_inlined {
        return refused("loadOnlyInlinedPlugins is set");
    }
    let is_there = directory
        .drop_ins
        .iter()
        .any(|found| found.name == list.name && found.text.as_ref() == Ok(&wanted.entry));
    let put = Step::PutDropIn { network: list.name.clone(), text: wanted.entry.clone() };
    Ok((base.file.clone(), if is_there { Vec::new() } else { vec![put] }))
}

fn copy(base: &Network, wanted: &Wanted, directory: &Directory) -> (String, Vec<Step>) {
    let text = edited(&base.list, wanted).unwrap_or_else(|| base.list.clone());
    let write = Step::Write { file: COPY.to_owned(), text: text.clone(), like: base.file.clone() };
    let is_there = directory.file(COPY) == Some(text.as_str());
    (COPY.to_owned(), if is_there { Vec::new() } else { vec![write] })
}

fn edited(list: &str, wanted: &Wanted) -> Option<String> {
    Conflist::parse(list).ok()?.with(&wanted.entry, &wanted.place)
}

/// Ours is taken out of where it was by another way.
fn leave_other_ways(directory: &Directory, base: &Network, mode: Mode) -> Vec<Step> {
    let network = Conflist::parse(&base.list).map(|list| list.name).unwrap_or_default();
    let mut steps = remove_drop_ins(directory, (mode == Mode::DropIn).then_some(network.as_str()));
    if mode != Mode::Copy && directory.files.iter().any(|file| file.name == COPY) {
        steps.push(Step::Remove(COPY.to_owned()));
    }
    if mode != Mode::Inline {
        let text = Conflist::parse(&base.list).ok().and_then(|list| list.without());
        if let (Kind::List, Some(text)) = (base.kind, text) {
            steps.push(Step::Write { file: base.file.clone(), text, like: base.file.clone() });
        }
    }
    steps
}

fn remove_drop_ins(directory: &Directory, but: Option<&str>) -> Vec<Step> {
    let names = directory.drop_ins.iter().map(|drop_in| &drop_in.name);
    names.filter(|name| Some(name.as_str()) != but).cloned().map(Step::RemoveDropIn).collect()
}

/// Takes ours out of a file. A list that replaced a single configuration gives way to it, unless somebody else has joined.
fn take_out(directory: &Directory, file: &File) -> Vec<Step> {
    let Some(list) = file.text.as_deref().ok().and_then(|text| Conflist::parse(text).ok()) else {
        return Vec::new();
    };
    let Some(text) = list.without() else { return Vec::new() };
    let single = file.name.strip_suffix(".conflist").unwrap_or_default();
    let replaced = format!("{single}{REPLACED}");
    let is_there = |name: &str| directory.files.iter().any(|file| file.name == name);
    let as_list = |name: &str| directory.file(name).and_then(|text| crate::conflist::list_of(text).ok());
    let is_list_of = |name: &str| as_list(name).is_some_and(|was| was == text);
    if is_list_of(&replaced) && !is_there(single) {
        // The old file counts from its return on, for it sorts first.
        let back = Step::Rename { from: replaced, to: single.to_owned() };
        return vec![back, Step::Remove(file.name.clone())];
    }
    // It has returned already, or was written anew: it counts.
    if as_list(single).is_some() && (is_list_of(single) || is_list_of(&replaced)) {
        let left = is_there(&replaced).then_some(Step::Remove(replaced));
        return [Step::Remove(file.name.clone())].into_iter().chain(left).collect();
    }
    vec![Step::Write { file: file.name.clone(), text, like: file.name.clone() }]
}

fn put(files: &mut Vec<File>, name: &str, text: String) {
    files.retain(|file| file.name != name);
    files.push(File { name: name.to_owned(), text: Ok(text) });
}

/// Single configurations that wait for their name although no list of ours stands for them any more.
#[must_use]
pub fn left_behind(directory: &Directory) -> Vec<String> {
    let names = directory.files.iter().map(|file| &file.name);
    names.filter(|name| name.ends_with(REPLACED)).cloned().collect()
}

#[cfg(test)]
mod tests;
