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
        let process = if pod.is_none() { round.process(event) } else { None };
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

    /// The name of the process; of the thread that called, where the process cannot be seen any more.
    fn process(&mut self, event: &Resolution) -> Option<String> {
        let sees = self.sees_processes;
        let found = self.processes.entry(event.pid).or_insert_with(|| name_of(event.pid).filter(|_| sees));
        found.clone().or_else(|| name(&event.comm))
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

fn name_of(pid: u32) -> Option<String> {
    name(fs::read(format!("/proc/{pid}/comm")).ok()?.trim_ascii_end())
}

/// A name that its bearer has chosen: what a terminal would obey is left out.
fn name(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]).replace(char::is_control, "\u{fffd}");
    Some(name).filter(|name| !name.is_empty())
}

/// Directories in a directory, by inode. What is gone has none.
fn children(path: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| Some((entry.metadata().ok()?.ino(), entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, process};

    use balancing_dataplane::model::Protocol;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn event(cgroup: u64) -> Resolution {
        Resolution {
            time_ns: 1,
            cgroup,
            netns_cookie: 5,
            pid: process::id(),
            comm: *b"thread\0\0\0\0\0\0\0\0\0\0",
            service_id: 7,
            protocol: Protocol::Udp,
            frontend: address("10.0.0.1:53"),
            outcome: events::Outcome::Redirected(address("10.1.0.1:53")),
        }
    }

    fn names(cgroups: &Path) -> Arc<Names> {
        let mut names = Names { cgroups: vec![(cgroups.to_owned(), "a/below".into())], ..Names::default() };
        names.pods.insert(ClientId::NetnsCookie(9), "a/cookie".into());
        names.pods.insert(ClientId::Cgroup(1), "a/own".into());
        names.policies.insert(7, OwnerView { kind: "BalancingPolicy".into(), name: "dns".into() });
        names.backends.insert(address("10.1.0.1:53"), "b/server".into());
        Arc::new(names)
    }

    #[test]
    fn an_event_has_the_names_of_its_time() {
        let cgroups = tempfile::tempdir().unwrap();
        let (names, mut resolver) = (names(cgroups.path()), Resolver::default());
        let of_pod = Resolution { netns_cookie: 9, ..event(0) };
        let decision = &resolver.resolve(&names, &[of_pod])[0];
        assert_eq!(
            decision.client,
            ClientView { pod: Some("a/cookie".into()), pid: process::id(), process: None }
        );
        assert_eq!(decision.policy.as_ref().unwrap().name, "dns");
        assert_eq!(decision.backend.as_ref().unwrap().pod.as_deref(), Some("b/server"));
        assert!(decision.time.parse::<Timestamp>().is_ok(), "{}", decision.time);
        let strange = Resolution {
            service_id: 8,
            outcome: events::Outcome::Redirected(address("10.1.0.2:53")),
            ..event(0)
        };
        let decision = &resolver.resolve(&names, &[strange])[0];
        assert_eq!((&decision.policy, decision.service_id), (&None, 8));
        assert_eq!(decision.backend.as_ref().unwrap().pod, None);
        assert!(decision.client.pod.is_none() && decision.client.process.is_some());
    }

    #[test]
    fn a_container_is_found_below_its_pod_also_when_it_comes_later() {
        let cgroups = tempfile::tempdir().unwrap();
        let (names, mut resolver) = (names(cgroups.path()), Resolver::default());
        let make = |path: &str| {
            let path = cgroups.path().join(path);
            fs::create_dir(&path).unwrap();
            fs::metadata(path).unwrap().ino()
        };
        let (first, inner) = (make("first"), make("first/inner"));
        let pods = |resolver: &mut Resolver, cgroups: &[u64]| {
            let events: Vec<_> = cgroups.iter().map(|cgroup| event(*cgroup)).collect();
            resolver.resolve(&names, &events).into_iter().map(|found| found.client.pod).collect::<Vec<_>>()
        };
        let below = || Some("a/below".to_owned());
        assert_eq!(
            pods(&mut resolver, &[1, first, inner, 0]),
            [Some("a/own".into()), below(), below(), None]
        );
        let second = make("second");
        assert_eq!(pods(&mut resolver, &[second, first, 0]), [below(), below(), None]);
    }

    #[test]
    fn a_process_that_is_gone_has_the_name_of_its_thread() {
        let mut round = Round { sees_processes: true, ..Round::begin() };
        let own = name_of(process::id());
        assert!(own.is_some());
        assert_eq!(round.process(&event(0)), own);
        let gone = Resolution { pid: u32::MAX, ..event(0) };
        assert_eq!(round.process(&gone).as_deref(), Some("thread"));
        assert_eq!(round.process(&Resolution { comm: [0; 16], ..gone }), None, "of an older program");
        let mut elsewhere = Round { sees_processes: false, ..Round::begin() };
        assert_eq!(elsewhere.process(&event(0)).as_deref(), Some("thread"));
    }

    #[test]
    fn a_name_gives_no_orders_to_a_terminal() {
        assert_eq!(name(b"\x1b[2Jx\0yz").as_deref(), Some("\u{fffd}[2Jx"));
    }
}
