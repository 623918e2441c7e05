//! The directories in which pods' cgroups appear, for whoever waits for them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::names;

/// What to watch for new pods: each place of a kubelet and each of the `learned` ones, with what lies between it and `root`. A
/// directory that is not there yet appears in one that is watched.
#[must_use]
pub fn places(root: &Path, learned: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let usual = names::parents().map(|below| root.join(below));
    let above = |place: PathBuf| -> Vec<PathBuf> {
        place.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_owned).collect()
    };
    let elsewhere = learned.iter().filter(|place| !place.starts_with(root)).cloned();
    let inside = usual.chain(learned.iter().cloned()).flat_map(above);
    inside.chain(elsewhere).chain([root.to_owned()]).filter(|place| place.is_dir()).collect()
}
