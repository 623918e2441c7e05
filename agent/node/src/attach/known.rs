//! What is known of one local pod: pure but for the look at its cgroup.

use std::{
    collections::BTreeSet,
    mem,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_core::{objects::Pod, view::POD_OF_HOST};
use balancing_dataplane::{
    cgroup::{self, CgroupDir, PodUid},
    links,
    model::ClientId,
};

use super::{AttachError, news::Event};

/// First and longest wait before a pod that is not as wanted is looked at again. News of its cgroup or record come first.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// What another process does with a pod at this moment is no failure until it has taken that long.
const PASSING: Duration = Duration::from_secs(5);
/// A pod without a cgroup has no process. One that is said to be ready should have had one by then; after a boot the objects
/// are older than the pods.
const NO_CGROUP: Duration = Duration::from_secs(120);

/// Why a pod is to have no links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftAlone {
    /// Its sockets are the host's, and hooked as those.
    HostNetwork,
    /// It has the annotation.
    Annotation,
    /// Its namespace is excluded.
    Namespace,
    /// Pods are not hooked on this host.
    Scope,
}

/// How a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no cgroup yet; why the search was in vain.
    Waiting(String),
    /// Its links are as wanted.
    Hooked,
    /// It is to have no links, and has none.
    LeftAlone,
    /// The plugin has just detached it: it ends, and is not to be attached again meanwhile.
    Ending,
    /// Several objects claim to be it: its links stay as they are.
    Contested,
    /// The tables are not filled yet.
    Early,
    /// Another process is at work with it.
    Busy(String),
    /// Something failed.
    Failing(String),
}

/// What is known of one local pod.
#[derive(Debug)]
pub(super) struct Known {
    uid: PodUid,
    name: String,
    /// What decided when it was looked at last.
    pub(super) left_alone: Option<LeftAlone>,
    pub(super) had_record: bool,
    cgroup: Option<(PathBuf, u64)>,
    pub(super) identities: BTreeSet<ClientId>,
    state: State,
    /// Since when it has not been as wanted.
    since: Instant,
    next: Option<Instant>,
    wait: Duration,
    /// What was wrong at that look, in words: status, metrics and readiness tell the same.
    problem: Option<String>,
    /// The problem has been logged.
    told: bool,
}

/// What a look found.
pub(super) struct Found {
    pub(super) left_alone: Option<LeftAlone>,
    pub(super) had_record: bool,
    pub(super) cgroup: Option<(PathBuf, u64)>,
    pub(super) identities: BTreeSet<ClientId>,
    pub(super) state: State,
    /// It was searched for, and not only looked at because something happened.
    pub(super) searched: bool,
}

impl LeftAlone {
    fn words(self) -> &'static str {
        match self {
            Self::HostNetwork => "hostNetwork: its sockets are the host's",
            Self::Annotation => "annotation balancing.elf.io/redirect: disabled",
            Self::Namespace => "its namespace is excluded",
            Self::Scope => "pods are not hooked on this host (--scope host or --role external)",
        }
    }
}

impl State {
    pub(super) fn of_error(error: &AttachError) -> Self {
        match error {
            AttachError::Links(links::Error::Locked { .. }) => Self::Busy(error.to_string()),
            _ => Self::Failing(error.to_string()),
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self, Self::Hooked | Self::LeftAlone)
    }

    /// What is wrong, and after how long it counts as wrong.
    fn trouble(&self, ready: bool) -> Option<(&str, Duration)> {
        match self {
            Self::Failing(why) => Some((why, Duration::ZERO)),
            Self::Busy(why) => Some((why, PASSING)),
            Self::Waiting(why) if ready => Some((why, NO_CGROUP)),
            _ => None,
        }
    }
}

impl Known {
    /// What is known after a look, and what the log is to say about it.
    pub(super) fn after(
        before: Option<&Self>,
        uid: PodUid,
        pod: &Pod,
        found: Found,
        now: Instant,
    ) -> (Self, Option<(Event, String)>) {
        let Found { searched, left_alone, had_record, cgroup, identities, state } = found;
        // Without an identity an exempt pod of the host network would not be recognised.
        let done = state.is_settled() && !identities.is_empty();
        let same = |before: &&Self| mem::discriminant(&before.state) == mem::discriminant(&state);
        let since = before.filter(same).map_or(now, |before| before.since);
        let before = before.filter(|before| before.state.is_settled() == state.is_settled() || before.told);
        let wait = before.filter(|_| !done).map_or(AGAIN.0, |before| (before.wait * 2).min(AGAIN.1));
        let trouble = state.trouble(pod.ready).map(|(why, patience)| (why.to_owned(), since + patience));
        let ends = trouble.as_ref().map(|(_, ends)| *ends).filter(|ends| *ends > now);
        // What happens elsewhere puts no search off.
        let next = match before.and_then(|before| before.next) {
            _ if done => None,
            Some(next) if !searched => Some(next),
            _ => Some(now + wait),
        };
        let mut known = Self {
            uid,
            name: format!("{}/{}", pod.namespace, pod.name),
            left_alone,
            had_record,
            cgroup,
            identities,
            since,
            state,
            next: next.map(|next| ends.map_or(next, |ends| ends.min(next))),
            wait: if searched { wait } else { before.map_or(wait, |before| before.wait) },
            problem: trouble.filter(|_| ends.is_none()).map(|(why, _)| why),
            told: before.is_some_and(|before| before.told),
        };
        let news = match (known.problem(), known.told) {
            (Some(problem), false) => Some((Event::NotAttached, problem.to_owned())),
            (None, true) if known.state.is_settled() => Some((Event::AttachedAfterAll, String::new())),
            _ => None,
        };
        match &news {
            Some((Event::NotAttached, _)) => known.told = true,
            Some(_) => known.told = false,
            None => {}
        }
        (known, news)
    }

    /// The UID that the node knows.
    pub(super) fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// Namespace and name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(|(path, _)| path.as_path())
    }

    /// Its cgroup, also where only its id leads to it.
    pub(super) fn open_cgroup(&self, root: &Path) -> Option<CgroupDir> {
        let (path, id) = self.cgroup.as_ref()?;
        let found = CgroupDir::open(path).ok().filter(|found| found.id() == *id);
        found.or_else(|| cgroup::by_id(root, *id).ok().flatten())
    }

    /// Notes that the plugin has detached it. A pod that goes on all the same is hooked again when it is searched for.
    pub(super) fn end(&mut self, now: Instant) {
        if self.state == State::Hooked {
            self.state = State::Ending;
            self.next = Some(now + AGAIN.1);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether the object was the only one that spoke for the pod when it was looked at.
    pub(super) fn speaks_for(&self, uid: &PodUid) -> bool {
        self.uid == *uid && self.state != State::Contested
    }

    pub(super) fn is_hooked(&self) -> bool {
        self.state == State::Hooked
    }

    /// Whether news of cgroups concern it.
    pub(super) fn is_waiting(&self) -> bool {
        !self.state.is_settled() || self.identities.is_empty()
    }

    /// How it is, for people and programs: a word, and why.
    pub(super) fn state(&self) -> (&'static str, Option<String>) {
        let why = |why: LeftAlone| Some(why.words().to_owned());
        match (&self.state, self.left_alone) {
            (State::Hooked, _) => ("hooked", None),
            (State::LeftAlone | State::Early, Some(reason @ LeftAlone::HostNetwork)) => {
                (POD_OF_HOST, why(reason))
            }
            (State::LeftAlone | State::Early, Some(reason)) => ("leftAlone", why(reason)),
            (State::LeftAlone | State::Early, None) => {
                ("waiting", Some("the tables are not filled yet".to_owned()))
            }
            (State::Contested, _) => {
                ("waiting", Some("several objects claim its UID: its links stay as they are".to_owned()))
            }
            (State::Ending, _) => ("waiting", Some("the CNI plugin has just detached it".to_owned())),
            (State::Waiting(why) | State::Busy(why), _) => ("waiting", Some(why.clone())),
            (State::Failing(why), _) => ("failing", Some(why.clone())),
        }
    }

    /// What is wrong with it, in words.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: State) -> Found {
        Found {
            left_alone: None,
            had_record: false,
            cgroup: None,
            identities: BTreeSet::from([ClientId::Cgroup(1)]),
            state,
            searched: true,
        }
    }

    fn after(before: Option<&Known>, state: State, now: Instant) -> (Known, Option<(Event, String)>) {
        let pod = Pod { namespace: "ns".into(), name: "a".into(), ready: true, ..Pod::default() };
        Known::after(before, PodUid::new("u").unwrap(), &pod, found(state), now)
    }

    #[test]
    fn a_pod_without_a_cgroup_is_no_problem_for_two_minutes() {
        let start = Instant::now();
        let waiting = || State::Waiting("no cgroup".to_owned());
        let (mut known, mut news) = after(None, waiting(), start);
        let (mut looks, mut now) = (0, start);
        while news.is_none() {
            assert_eq!(known.problem(), None);
            now = known.next().unwrap();
            (known, news) = after(Some(&known), waiting(), now);
            looks += 1;
        }
        // It is looked at when its time is over, not up to half a minute later.
        assert!(now - start == NO_CGROUP && looks < 15, "{looks} looks in {:?}", now - start);
        assert_eq!(news, Some((Event::NotAttached, "no cgroup".to_owned())));
        // It is told once, and its end too; then a new wait begins with the shortest pause.
        let (known, news) = after(Some(&known), waiting(), now + AGAIN.1);
        assert_eq!((news, known.problem()), (None, Some("no cgroup")));
        let (known, news) = after(Some(&known), State::Hooked, now + AGAIN.1);
        assert_eq!((news.map(|(event, _)| event), known.next()), (Some(Event::AttachedAfterAll), None));
        let (known, news) = after(Some(&known), waiting(), now + AGAIN.1);
        assert_eq!((news, known.next()), (None, Some(now + AGAIN.1 + AGAIN.0)));
        assert_eq!(known.problem(), None);
    }

    #[test]
    fn what_happens_elsewhere_puts_no_search_off() {
        let start = Instant::now();
        let waiting = || State::Waiting("no cgroup".to_owned());
        let (known, _) = after(None, waiting(), start);
        let pod = Pod::default();
        let touched = Found { searched: false, ..found(waiting()) };
        let (again, _) =
            Known::after(Some(&known), PodUid::new("u").unwrap(), &pod, touched, start + AGAIN.0 / 2);
        assert_eq!((again.next(), again.wait), (known.next(), known.wait));
    }

    #[test]
    fn a_pod_that_the_plugin_has_detached_is_searched_for_later() {
        let start = Instant::now();
        let (mut known, _) = after(None, State::Hooked, start);
        known.end(start);
        assert_eq!((known.is_hooked(), known.next()), (false, Some(start + AGAIN.1)));
        assert_eq!((known.state().0, known.problem()), ("waiting", None));
    }

    #[test]
    fn what_another_process_does_passes_and_a_failure_does_not() {
        let start = Instant::now();
        let locked = || State::Busy("locked".to_owned());
        let (busy, news) = after(None, locked(), start);
        assert_eq!((busy.problem(), news), (None, None));
        let (busy, _) = after(Some(&busy), locked(), start + PASSING / 2);
        assert_eq!(busy.problem(), None);
        let (late, _) = after(Some(&busy), locked(), start + PASSING);
        assert_eq!(late.problem(), Some("locked"));
        let (failing, news) = after(Some(&busy), State::Failing("full".to_owned()), start);
        assert_eq!(failing.problem(), Some("full"));
        assert_eq!(news, Some((Event::NotAttached, "full".to_owned())));
    }

    #[test]
    fn a_pod_without_an_identity_is_looked_for_also_when_it_is_left_alone() {
        let pod = Pod::default();
        let nobody = Found {
            identities: BTreeSet::new(),
            left_alone: Some(LeftAlone::Scope),
            ..found(State::LeftAlone)
        };
        let (known, _) = Known::after(None, PodUid::new("u").unwrap(), &pod, nobody, Instant::now());
        assert!(known.next().is_some() && known.is_waiting());
        let (known, _) = after(None, State::LeftAlone, Instant::now());
        assert!(known.next().is_none() && !known.is_waiting());
    }
}
