//! Gives events their names. It reads files of the kernel: names of processes, and the cgroups below those of pods.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use balancing_core::{
    monitor::{ClientView, Decision, Outcome, Reason, TargetView},
    view::{KeyView, OwnerView},
};
use balancing_dataplane::{
    model::{ClientId, FrontendKey},
    tables::events::{self, Resolution},
};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use super::names::Names;

/// Cgroups that are remembered.
const CGROUPS: usize = 16_384;
/// The inode of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_PIDS: u64 = 0xefff_fffc;

/// Knows whose cgroup is whose, as long as the names are the same.
#[derive(Default)]
pub(super) struct Resolver {
    names: Arc<Names>,
    /// Cgroups that are no pod's own: those below one, and those of nobody.
    cgroups: HashMap<u64, Option<Arc<str>>>,
}

/// What is looked up once for events that are resolved together.
struct Round {
    /// The monotonic clock's zero, in the time of day.
    zero: Duration,
    /// The cgroups below those of pods have been listed: what is not among them is no pod's.
    listed: bool,
    /// Numbers of processes mean the same here as in events.
    sees_processes: bool,
    processes: HashMap<u32, Option<String>>,
}

impl Resolver {
    pub(super) fn resolve(&mut self, names: &Arc<Names>, events: &[Resolution]) -> Vec<Decision> {
        if !Arc::ptr_eq(&self.names, names) {
            self.names = Arc::clone(names);
            self.cgroups.clear();
        }
        let mut round = Round::begin();
        events.iter().map(|event| self.decision(event, &mut round)).collect()
    }

    fn decision(&mut self, event: &Resolution, round: &mut Round) -> Decision {
        let pod = self.pod(event, round);
        let process = if pod.is_none() { round.process(event.pid) } else { None };
        let (address, port) = (event.frontend.ip(), event.frontend.port());
        let key = FrontendKey { address, port, protocol: event.protocol };
        let (outcome, reason, backend) = match event.outcome {
            events::Outcome::Redirected(to) => {
                let pod = self.names.backends.get(&to).cloned();
                (Outcome::Redirected, None, Some(TargetView { address: to.ip(), port: to.port(), pod }))
            }
            events::Outcome::Passed(why) => (Outcome::Passed, reason(why), None),
            events::Outcome::Rejected => (Outcome::Rejected, Some(Reason::NoBackend), None),
        };
        let policy: Option<OwnerView> = self.names.policies.get(&event.service_id).cloned();
        Decision {
            time: round.time(event.time_ns),
            client: ClientView { pod: pod.map(|name| name.to_string()), pid: event.pid, process },
            frontend: KeyView::from(&key),
            outcome,
            reason,
            backend,
            service_id: event.service_id,
            policy,
        }
    }

    fn pod(&mut self, event: &Resolution, round: &mut Round) -> Option<Arc<str>> {
        let known = |id| self.names.pods.get(&id).cloned();
        let own = known(ClientId::NetnsCookie(event.netns_cookie))
            .or_else(|| known(ClientId::Cgroup(event.cgroup)));
        if own.is_some() {
            return own;
        }
        if !round.listed && !self.cgroups.contains_key(&event.cgroup) {
            round.listed = true;
            self.list();
        }
        if self.cgroups.len() >= CGROUPS {
            return self.cgroups.get(&event.cgroup).cloned().flatten();
        }
        self.cgroups.entry(event.cgroup).or_default().clone()
    }

    /// Lists the cgroups below those of pods. The kernel never gives the number of a cgroup to another one, so what is known stays
    /// true.
    fn list(&mut self) {
        if self.cgroups.len() >= CGROUPS {
            self.cgroups.clear();
        }
        for (path, pod) in &self.names.cgroups {
            let mut waiting = vec![path.clone()];
            while let Some(path) = waiting.pop() {
                for (id, path) in children(&path) {
                    if self.cgroups.len() >= CGROUPS {
                        return;
                    }
                    self.cgroups.insert(id, Some(Arc::clone(pod)));
                    waiting.push(path);
                }
            }
        }
    }
}

impl Round {
    fn begin() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let namespace = fs::metadata("/proc/self/ns/pid");
        Self {
            zero: now.saturating_sub(since),
            listed: false,
            sees_processes: namespace.is_ok_and(|namespace| namespace.ino() == FIRST_PIDS),
            processes: HashMap::new(),
        }
    }

    fn time(&self, monotonic_ns: u64) -> String {
        let micros = (self.zero + Duration::from_nanos(monotonic_ns)).as_micros();
        let stamp = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
        format!("{:.6}", stamp.unwrap_or_default())
    }

    fn process(&mut self, pid: u32) -> Option<String> {
        if !self.sees_processes {
            return None;
        }
        self.processes.entry(pid).or_insert_with(|| name_of(pid)).clone()
    }
}

fn reason(why: events::Reason) -> Option<Reason> {
    match why {
        events::Reason::Unknown => None,
        events::Reason::NoBackend => Some(Reason::NoBackend),
        events::Reason::QosLimit => Some(Reason::QosLimit),
        events::Reason::Exempt => Some(Reason::Exempt),
        events::Reason::OtherClients => Some(Reason::OtherClients),
    }
}

/// The name of a process, which it may choose itself: what a terminal would obey is left out.
fn name_of(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&bytes);
    Some(name.trim_end_matches('\n').replace(char::is_control, "\u{fffd}"))
}

/// Directories in a directory, by inode. What is gone has none.
fn children(path: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| Some((entry.metadata().ok()?.ino(), entry.path()))).collect()
}
