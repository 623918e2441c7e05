//! Watches what pods' links depend on, so that nothing has to be searched for: the directories in which pods' cgroups appear, the
//! plugin's records, and the pins of the links.
//!
//! Events only say where to look. What is lost, or cannot be watched, is found by the looks at everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use balancing_dataplane::cgroup::{self, PodUid};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holds {
    /// Cgroups, those of pods among them.
    Cgroups,
    /// A directory of records for each network.
    Networks,
    /// Records.
    Records,
    /// Link directories of pods.
    Pods,
    /// The links of a pod.
    Links(PodUid),
    /// The links at the cgroup root.
    HostLinks,
    /// The cgroups of the containers of a pod.
    Containers(PodUid),
    /// What one of them tells of itself: a file.
    Events(PodUid),
}

/// What happened since it was asked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    /// Pods whose cgroup appeared or whose links changed.
    pub(super) pods: BTreeSet<PodUid>,
    /// Records that were written or removed.
    pub(super) records: BTreeSet<PathBuf>,
    /// Directories of cgroups appeared that are to be watched, too; what is in them already was not told.
    pub(super) places: bool,
    /// The same of records.
    pub(super) networks: bool,
    /// A link at the cgroup root is gone.
    pub(super) host: bool,
    /// Pods of which a container began or ended.
    pub(super) containers: BTreeSet<PodUid>,
    /// Events were lost.
    pub(super) lost: bool,
}

/// Directories that are to be watched.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Where cgroups of pods appear.
    pub(super) places: BTreeSet<PathBuf>,
    /// Directory of all networks' records.
    pub(super) records: PathBuf,
    /// Directory of the pods' links; `None` where pods are not hooked.
    pub(super) links: Option<PathBuf>,
    /// Pods whose links are to be kept.
    pub(super) pods: BTreeSet<PodUid>,
    /// Directories of pods' cgroups.
    pub(super) containers: BTreeMap<PathBuf, PodUid>,
    /// `cgroup.events` of their containers.
    pub(super) events: BTreeMap<PathBuf, PodUid>,
}

/// The descriptor of a watch: readable while there are events. A duplicate, so that it may be waited for elsewhere.
#[derive(Debug)]
pub struct Descriptor(OwnedFd);

/// The watch.
pub(super) struct Watch {
    /// `None` where the kernel gives none: then everything is found by looking.
    inotify: Option<Inotify>,
    watched: BTreeMap<PathBuf, WatchDescriptor>,
    holds: HashMap<WatchDescriptor, (PathBuf, Holds)>,
    host: Option<PathBuf>,
    happened: Happened,
    /// Why something is not watched.
    blind: Option<String>,
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Happened {
    /// Nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let hint = "no inotify; raise fs.inotify.max_user_instances";
        Self {
            blind: inotify.as_ref().err().map(|errno| format!("{errno}: {hint}")),
            inotify: inotify.ok(),
            watched: BTreeMap::new(),
            holds: HashMap::new(),
            host: None,
            happened: Happened::default(),
        }
    }

    pub(super) fn descriptor(&self) -> Option<Descriptor> {
        let fd = self.inotify.as_ref()?.as_fd().try_clone_to_owned();
        fd.ok().map(Descriptor)
    }

    /// Why something is not watched, if that is so.
    pub(super) fn blindness(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// Notes that a pod is to be looked at.
    pub(super) fn touch(&mut self, pod: &PodUid) {
        self.happened.pods.insert(pod.clone());
    }

    /// Reads what happened. Returns whether a link at the cgroup root is gone, once.
    pub(super) fn notice_host(&mut self) -> bool {
        self.read();
        mem::take(&mut self.happened.host)
    }

    /// What happened, whoever noticed it.
    pub(super) fn take(&mut self) -> Happened {
        self.read();
        mem::take(&mut self.happened)
    }

    /// The pods of which a container began or ended, or is watched from now on.
    pub(super) fn take_containers(&mut self) -> BTreeSet<PodUid> {
        mem::take(&mut self.happened.containers)
    }

    /// Watches the directory of the host's links, or none.
    pub(super) fn set_host(&mut self, host: Option<PathBuf>) {
        if self.host == host {
            return;
        }
        if let Some(old) = mem::replace(&mut self.host, host.clone()) {
            self.remove(&old);
        }
        if let Some(path) = host {
            self.add(path, Holds::HostLinks);
        }
    }

    /// Whether something happened that nobody has looked at.
    pub(super) fn has_news(&self) -> bool {
        !self.happened.is_empty()
    }

    /// Watches these directories and no others. What is in a new one already is news.
    pub(super) fn set(&mut self, wanted: &Wanted) {
        if self.inotify.is_some() {
            self.blind = None;
        }
        let mut all: BTreeMap<PathBuf, Holds> =
            wanted.places.iter().map(|place| (place.clone(), Holds::Cgroups)).collect();
        all.insert(wanted.records.clone(), Holds::Networks);
        all.extend(networks(&wanted.records).map(|network| (network, Holds::Records)));
        if let Some(links) = &wanted.links {
            all.insert(links.clone(), Holds::Pods);
            let of = |uid: &PodUid| (links.join(uid.as_str()), Holds::Links(uid.clone()));
            all.extend(wanted.pods.iter().map(of));
        }
        all.extend(
            wanted.containers.iter().map(|(path, uid)| (path.clone(), Holds::Containers(uid.clone()))),
        );
        all.extend(wanted.events.iter().map(|(path, uid)| (path.clone(), Holds::Events(uid.clone()))));
        let keep = |path: &&PathBuf| all.contains_key(*path) || self.host.as_ref() == Some(*path);
        let gone: Vec<PathBuf> = self.watched.keys().filter(|path| !keep(path)).cloned().collect();
        for path in gone {
            self.remove(&path);
        }
        // Where watches are scarce, containers take none from pods.
        let (late, early): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|(path, _)| !self.watched.contains_key(path))
            .partition(|(_, holds)| matches!(holds, Holds::Containers(_) | Holds::Events(_)));
        for (path, holds) in early.into_iter().chain(late) {
            self.begin(path, holds);
        }
    }

    /// Watches something new; what is in it already was not told.
    fn begin(&mut self, path: PathBuf, holds: Holds) {
        let (kind, place) = (holds.clone(), path.clone());
        let is_new = self.add(path, holds);
        match kind {
            Holds::Cgroups => self.happened.places |= is_new,
            Holds::Networks | Holds::Records => self.happened.networks |= is_new,
            Holds::Containers(uid) if is_new => drop(self.happened.containers.insert(uid)),
            // One that is gone again is to be seen, and is wanted no more then. What cannot be watched is no news: it would be for ever.
            Holds::Events(uid) if is_new || !place.exists() => drop(self.happened.containers.insert(uid)),
            Holds::Containers(_) | Holds::Events(_) => {}
            Holds::Pods | Holds::Links(_) | Holds::HostLinks => {}
        }
    }

    /// Whether it is watched from now on.
    fn add(&mut self, path: PathBuf, holds: Holds) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let changes = match holds {
            Holds::Cgroups => AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
            Holds::Networks | Holds::Pods => {
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM
            }
            Holds::Records => AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE,
            Holds::Links(_) | Holds::HostLinks => AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM,
            // The kernel tells of a cgroup that is removed in the directory above it only.
            Holds::Containers(_) => AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE,
            Holds::Events(_) => AddWatchFlags::IN_MODIFY,
        };
        let only = match holds {
            Holds::Events(_) => AddWatchFlags::empty(),
            _ => AddWatchFlags::IN_ONLYDIR,
        };
        match inotify.add_watch(&path, changes | only) {
            Ok(descriptor) => {
                self.watched.insert(path.clone(), descriptor);
                self.holds.insert(descriptor, (path, holds));
                true
            }
            // It went before it could be watched, and is named when it comes again.
            Err(Errno::ENOENT) => false,
            Err(errno) => {
                self.blind = Some(match errno {
                    Errno::ENOSPC => "raise fs.inotify.max_user_watches".to_owned(),
                    errno => format!("cannot watch {}: {errno}", path.display()),
                });
                false
            }
        }
    }

    fn remove(&mut self, path: &Path) {
        let Some(descriptor) = self.watched.remove(path) else { return };
        // A directory that has two paths has one watch.
        if self.watched.values().any(|other| *other == descriptor) {
            return;
        }
        self.holds.remove(&descriptor);
        if let Some(inotify) = &self.inotify {
            // The directory may be gone, and the watch with it.
            inotify.rm_watch(descriptor).ok();
        }
    }

    fn read(&mut self) {
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                self.note(&event);
            }
        }
    }

    fn note(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.happened.lost = true;
            return;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // A directory that comes again under the same name is another one.
            if let Some((_, Holds::Events(uid))) = self.holds.remove(&event.wd) {
                self.happened.containers.insert(uid);
            }
            self.watched.retain(|_, descriptor| *descriptor != event.wd);
            return;
        }
        let held = self.holds.get(&event.wd);
        if let Some((_, Holds::Events(uid))) = held {
            self.happened.containers.insert(uid.clone());
            return;
        }
        let (Some((path, holds)), Some(name)) = (held, &event.name) else { return };
        let name = name.to_string_lossy();
        let is_dir = event.mask.contains(AddWatchFlags::IN_ISDIR);
        match holds {
            Holds::Cgroups if is_dir => {
                self.happened.pods.extend(cgroup::uid_in_name(&name));
                self.happened.places = true;
            }
            Holds::Networks => self.happened.networks = true,
            Holds::Records => drop(self.happened.records.insert(path.join(&*name))),
            Holds::Pods => self.happened.pods.extend(PodUid::new(&name).ok()),
            Holds::Links(uid) => drop(self.happened.pods.insert(uid.clone())),
            Holds::HostLinks => self.happened.host = true,
            Holds::Containers(uid) if is_dir => drop(self.happened.containers.insert(uid.clone())),
            Holds::Cgroups | Holds::Containers(_) | Holds::Events(_) => {}
        }
    }
}

/// The directories of records.
fn networks(records: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(records).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}
