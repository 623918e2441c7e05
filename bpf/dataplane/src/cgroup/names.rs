//! How kubelets name the cgroups of pods. Pure text.
//!
//! Source: `pkg/kubelet/cm` of Kubernetes. A dash in the name of a systemd slice separates parents, so
//! the systemd driver writes the UID with underscores.

use std::path::{Path, PathBuf};

use super::PodUid;

/// Value of the kubelet's `cgroupRoot`: the default and that of kind.
const ROOTS: [&str; 2] = ["", "kubelet"];
/// Guaranteed pods lie directly below `kubepods`.
const QOS: [&str; 3] = ["burstable", "besteffort", ""];

/// 32 hexadecimal digits, as static pods have them.
const SHORTEST_UID: usize = 32;

/// Where a kubelet puts the pod, relative to the mount: {root} x {QoS class} x {driver}.
pub(super) fn candidates(uid: &PodUid) -> impl Iterator<Item = PathBuf> {
    let underscored = uid.underscored();
    ROOTS.into_iter().flat_map(move |root| {
        let underscored = underscored.clone();
        QOS.into_iter().flat_map(move |qos| {
            let parts = [root, "kubepods", qos].map(str::to_owned);
            [cgroupfs(&parts, uid.as_str()), systemd(&parts, &underscored)]
        })
    })
}

/// The directories below the mount that hold pods where kubelets use their defaults.
pub(super) fn parents() -> impl Iterator<Item = PathBuf> {
    ROOTS.into_iter().flat_map(|root| {
        QOS.into_iter().flat_map(move |qos| {
            let names: Vec<&str> =
                [root, "kubepods", qos].into_iter().filter(|name| !name.is_empty()).collect();
            [names.iter().collect(), expand_slice(Path::new(&format!("{}.slice", names.join("-"))))]
        })
    })
}

/// The pod's directory beside that of another pod: in a slice the name begins with the slice's.
pub(super) fn in_place(place: &Path, uid: &PodUid) -> Option<PathBuf> {
    let stem = place.file_name()?.to_str()?.strip_suffix(".slice");
    Some(place.join(match stem {
        Some(stem) => format!("{stem}-pod{}.slice", uid.underscored()),
        None => format!("pod{uid}"),
    }))
}

/// `kubepods/burstable/pod<uid>`.
fn cgroupfs(parts: &[String], uid: &str) -> PathBuf {
    let mut path: PathBuf = parts.iter().filter(|part| !part.is_empty()).collect();
    path.push(format!("pod{uid}"));
    path
}

/// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice`.
fn systemd(parts: &[String], uid: &str) -> PathBuf {
    let names: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    expand_slice(Path::new(&format!("{}-pod{uid}.slice", names.join("-"))))
}

/// Spells out the parents of a lone slice, as systemd does: `a-b.slice` is `a.slice/a-b.slice`. Other paths stay.
pub(super) fn expand_slice(path: &Path) -> PathBuf {
    let Some(stem) = path.to_str().and_then(|name| name.strip_suffix(".slice")) else {
        return path.to_owned();
    };
    if stem.contains('/') {
        return path.to_owned();
    }
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

/// Whether a directory is the pod's: its name ends with `pod` and the UID, and is not the longer name of another.
pub(super) fn is_of(name: &str, uid: &PodUid) -> bool {
    pod_part(name).is_some_and(|found| found == uid.as_str() || found == uid.underscored())
}

/// The UID in a name of that form; it may be another word.
pub(super) fn any_uid_of(name: &str) -> Option<PodUid> {
    // Only the slice form replaces dashes; no UID contains an underscore.
    PodUid::new(&pod_part(name)?.replace('_', "-")).ok()
}

/// The UID in the name of a pod's directory. Shorter than any real UID means another word, such as `pods`.
pub(super) fn uid_of(name: &str) -> Option<PodUid> {
    any_uid_of(name).filter(|uid| uid.as_str().len() >= SHORTEST_UID)
}

/// What follows `pod` in `pod<uid>`, `kubepods-pod<uid_>.slice`, `<root>-kubepods-<qos>-pod<uid_>.slice`.
fn pod_part(name: &str) -> Option<&str> {
    match name.strip_suffix(".slice") {
        Some(stem) => stem.rsplit('-').next()?.strip_prefix("pod"),
        None => name.strip_prefix("pod"),
    }
    .filter(|uid| !uid.is_empty())
}
