//! Which containers of local pods have ended, as their cgroups tell: at once, while the kubelet takes a second or more.
//!
//! A container's cgroup is a directory in its pod's, and its `cgroup.events` says `populated 0` when the last process is gone
//! (Linux, "Control Group v2", 2.4.2). One ended that was seen populated before; one that never was may be about to start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_dataplane::cgroup::PodUid;
use nix::errno::Errno;

/// How long the cgroup is believed more than the kubelet. By then it has told, or cannot tell and has started the container anew.
const BELIEVED: Duration = Duration::from_secs(60);
/// Runtimes' ids are 64 hexadecimal digits. Short ones are none of theirs.
const SHORTEST_ID: usize = 32;

/// The containers of all local pods whose cgroup is known.
#[derive(Debug, Default)]
pub(super) struct Containers(BTreeMap<PodUid, PodContainers>);

#[derive(Debug)]
struct PodContainers {
    cgroup: PathBuf,
    containers: BTreeMap<Box<str>, Container>,
    told: BTreeSet<Box<str>>,
}

#[derive(Debug)]
struct Container {
    was_populated: bool,
    ended: Option<Instant>,
    /// It had processes again after it had none: what is alive of it is elsewhere, and its cgroup tells nothing.
    is_doubtful: bool,
    /// Its directory was there at the last look.
    exists: bool,
    events: PathBuf,
}

impl Containers {
    /// Whether a pod is to be looked at although nothing happened to it.
    pub(super) fn is_due(&self, uid: &PodUid, cgroup: Option<&Path>, now: Instant) -> bool {
        match (self.0.get(uid), cgroup) {
            (None, cgroup) => cgroup.is_some(),
            (Some(pod), cgroup) => {
                cgroup.is_some_and(|cgroup| cgroup != pod.cgroup) || pod.next().is_some_and(|at| at <= now)
            }
        }
    }

    /// Looks at the containers of a pod, whose cgroup may be gone. Returns those that have ended, when that has changed.
    pub(super) fn look(
        &mut self,
        uid: &PodUid,
        cgroup: Option<&Path>,
        now: Instant,
    ) -> Option<BTreeSet<Box<str>>> {
        let pod = match (self.0.get_mut(uid), cgroup) {
            (Some(pod), _) => pod,
            (None, Some(cgroup)) => self.0.entry(uid.clone()).or_insert_with(|| PodContainers::new(cgroup)),
            (None, None) => return None,
        };
        if let Some(cgroup) = cgroup.filter(|cgroup| **cgroup != pod.cgroup) {
            // Another directory says nothing about those in the old one.
            *pod = PodContainers { told: std::mem::take(&mut pod.told), ..PodContainers::new(cgroup) };
        }
        pod.find();
        for container in pod.containers.values_mut() {
            container.note(populated(&container.events), now);
        }
        pod.containers.retain(|_, container| container.exists || container.is_believed(now));
        let ended: BTreeSet<Box<str>> =
            pod.containers.iter().filter(|(_, c)| c.is_believed(now)).map(|(id, _)| id.clone()).collect();
        (ended != pod.told).then(|| {
            pod.told.clone_from(&ended);
            ended
        })
    }

    /// Forgets all other pods. Returns those of which something was told.
    pub(super) fn keep(&mut self, pods: &BTreeSet<&PodUid>) -> Vec<PodUid> {
        let mut gone = Vec::new();
        self.0.retain(|uid, pod| {
            let stays = pods.contains(uid);
            if !stays && !pod.told.is_empty() {
                gone.push(uid.clone());
            }
            stays
        });
        gone
    }

    /// When one that ended is no longer believed to have.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(PodContainers::next).min()
    }

    /// The directories in which containers come and go.
    pub(super) fn directories(&self) -> impl Iterator<Item = (PathBuf, PodUid)> {
        self.0.iter().map(|(uid, pod)| (pod.cgroup.clone(), uid.clone()))
    }

    /// The files that tell when a container has no process any more.
    pub(super) fn events(&self) -> impl Iterator<Item = (PathBuf, PodUid)> {
        self.0.iter().flat_map(|(uid, pod)| {
            let there = pod.containers.values().filter(|container| container.exists);
            there.map(|container| (container.events.clone(), uid.clone()))
        })
    }
}

impl PodContainers {
    fn new(cgroup: &Path) -> Self {
        Self { cgroup: cgroup.to_owned(), containers: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// Takes up the containers that are there.
    fn find(&mut self) {
        // A directory that cannot be read tells nothing; one that is gone is noticed by the containers that were in it.
        for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(id_of) else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.containers.entry(id.into()).or_insert_with(|| Container {
                    was_populated: false,
                    ended: None,
                    is_doubtful: false,
                    exists: true,
                    events: entry.path().join("cgroup.events"),
                });
            }
        }
    }

    /// When the first of those that were told is no longer believed.
    fn next(&self) -> Option<Instant> {
        let told = self.told.iter().filter_map(|id| self.containers.get(id)?.ended);
        told.map(|at| at + BELIEVED).min()
    }
}

impl Container {
    /// Takes in what its file says: `Ok(None)` = it is gone. What cannot be read is not known.
    fn note(&mut self, populated: io::Result<Option<bool>>, now: Instant) {
        let Ok(populated) = populated else { return };
        self.exists = populated.is_some();
        match populated {
            Some(true) => {
                self.is_doubtful |= self.ended.is_some();
                (self.was_populated, self.ended) = (true, None);
            }
            Some(false) | None if self.was_populated && !self.is_doubtful => {
                self.ended.get_or_insert(now);
            }
            Some(false) | None => {}
        }
    }

    fn is_believed(&self, now: Instant) -> bool {
        self.ended.is_some_and(|at| now < at + BELIEVED)
    }
}

/// The id of the container whose cgroup has that name: `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope`, or `ID` with
/// the driver `cgroupfs`. `crio-conmon-ID.scope` is CRI-O's watcher, which outlives the container.
fn id_of(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() >= SHORTEST_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && !prefix.ends_with("conmon")).then_some(id)
}

/// Whether a cgroup has processes; `None`: it is gone.
fn populated(events: &Path) -> io::Result<Option<bool>> {
    match fs::read_to_string(events) {
        Ok(text) => {
            let value = text.lines().find_map(|line| line.strip_prefix("populated "));
            value.map(|value| Some(value != "0")).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        // The second while the file is open and the directory goes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "57620ecf49e34c04f3124633ff0b1b6eeb75e63f4723d38b1a7c46faf6524518";

    fn container() -> Container {
        Container {
            was_populated: false,
            ended: None,
            is_doubtful: false,
            exists: true,
            events: PathBuf::new(),
        }
    }

    #[test]
    fn names_of_all_runtimes_and_drivers() {
        for name in ["cri-containerd-ID.scope", "crio-ID.scope", "crio-ID", "docker-ID.scope", "ID"] {
            assert_eq!(id_of(&name.replace("ID", ID)), Some(ID), "{name}");
        }
        for name in
            ["crio-conmon-ID.scope", "conmon-ID", "init.scope", "cri-containerd-.scope", "", "-", "ID-x"]
        {
            assert_eq!(id_of(&name.replace("ID", ID)), None, "{name}");
        }
    }

    #[test]
    fn one_that_was_never_populated_has_not_ended() {
        let (mut starting, now) = (container(), Instant::now());
        for populated in [Some(false), None] {
            starting.note(Ok(populated), now);
            assert_eq!(starting.ended, None, "{populated:?}");
        }
    }

    #[test]
    fn one_that_was_populated_and_is_not_has_ended_for_a_while() {
        for end in [Some(false), None] {
            let (mut ending, now) = (container(), Instant::now());
            ending.note(Ok(Some(true)), now);
            assert!(!ending.is_believed(now));
            ending.note(Err(io::Error::from_raw_os_error(Errno::EMFILE as i32)), now);
            assert!(!ending.is_believed(now), "what cannot be read is not known");
            ending.note(Ok(end), now);
            ending.note(Ok(end), now + BELIEVED / 2);
            assert!(ending.is_believed(now + BELIEVED - Duration::from_millis(1)), "{end:?}");
            assert!(!ending.is_believed(now + BELIEVED), "the kubelet has the last word: {end:?}");
        }
    }

    #[test]
    fn processes_that_come_back_prove_that_the_cgroup_tells_nothing() {
        let (mut container, now) = (container(), Instant::now());
        for populated in [true, false, true] {
            container.note(Ok(Some(populated)), now);
        }
        assert!(!container.is_believed(now));
        container.note(Ok(Some(false)), now);
        assert!(!container.is_believed(now), "a probe that ran in it is no life that ended");
    }
}
