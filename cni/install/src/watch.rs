//! Notices that something changed in the directories of the runtime. What changed is found by a look; a watch that could not be
//! made costs time, not correctness.

use std::{
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
};

/// What is a reason for a look.
const EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB);

/// Watches on some directories.
#[derive(Debug)]
pub struct Watch {
    descriptor: Option<OwnedFd>,
    paths: Vec<PathBuf>,
}

impl Watch {
    /// Watches these directories, and the parents of those that do not exist.
    #[must_use]
    pub fn new(paths: &[&Path]) -> Self {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .inspect_err(|error| {
                tracing::warn!("no watch on {paths:?}: {error}; they are looked at now and then")
            })
            .ok();
        let mut watch = Self { descriptor, paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        watch.arm();
        watch
    }

    /// Forgets what happened so far.
    pub fn drain(&mut self) {
        let Some(descriptor) = &self.descriptor else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(descriptor, &mut buffer);
        while reader.next().is_ok() {}
    }

    /// Waits until something happens, at most so long; whether it did.
    pub fn wait(&mut self, longest: Duration) -> bool {
        // A directory that was replaced has no watch any more.
        self.arm();
        let Some(descriptor) = &self.descriptor else {
            std::thread::sleep(longest);
            return false;
        };
        let timeout = Timespec::try_from(longest).ok();
        let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
        let happened = poll(&mut polled, timeout.as_ref()).is_ok_and(|count| count > 0);
        self.drain();
        happened
    }

    /// Adding a watch that is there changes nothing.
    fn arm(&mut self) {
        let Some(descriptor) = &self.descriptor else { return };
        for path in &self.paths {
            let nearest = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
            inotify::add_watch(descriptor, nearest, EVENTS).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(20);

    #[test]
    fn g20_each_way_to_write_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("a"), place.path().join("b"));
        let mut watch = Watch::new(&[place.path()]);
        assert!(!watch.wait(SOON));
        let steps: [&dyn Fn(); 5] = [
            &|| fs::write(&path, "x").unwrap(),
            &|| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap(),
            &|| fs::rename(&path, &other).unwrap(),
            &|| fs::hard_link(&other, &path).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ];
        for (number, step) in steps.iter().enumerate() {
            step();
            assert!(watch.wait(LATE), "step {number}");
            assert!(!watch.wait(SOON), "step {number}");
        }
    }

    #[test]
    fn g19_a_directory_that_comes_goes_and_comes_again() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("net.d");
        let mut watch = Watch::new(&[&directory]);
        for round in 0..3 {
            fs::create_dir(&directory).unwrap();
            assert!(watch.wait(LATE), "round {round}");
            watch.wait(SOON);
            fs::write(directory.join("a"), "").unwrap();
            assert!(watch.wait(LATE), "round {round}");
            fs::remove_dir_all(&directory).unwrap();
            assert!(watch.wait(LATE), "round {round}");
            watch.wait(SOON);
        }
    }

    #[test]
    fn g21_events_that_were_lost_are_a_reason_too() {
        let place = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&[place.path()]);
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        for number in 0..=limit / 2 {
            let path = place.path().join(number.to_string());
            fs::write(&path, "").unwrap();
            fs::remove_file(&path).unwrap();
        }
        assert!(watch.wait(LATE));
        assert!(!watch.wait(SOON));
        fs::write(place.path().join("a"), "").unwrap();
        assert!(watch.wait(LATE), "and it goes on");
    }

    #[test]
    fn g21_without_a_watch_time_is_the_reason() {
        let mut watch = Watch { descriptor: None, paths: Vec::new() };
        let begin = Instant::now();
        assert!(!watch.wait(SOON));
        assert!(begin.elapsed() >= SOON);
    }

    #[test]
    fn g24_what_is_drained_is_no_reason() {
        let place = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&[place.path()]);
        fs::write(place.path().join("a"), "x").unwrap();
        watch.drain();
        let begin = Instant::now();
        assert!(!watch.wait(SOON));
        assert!(begin.elapsed() >= SOON);
    }
}
