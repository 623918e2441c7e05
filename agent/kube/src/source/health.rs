//! What is wrong now: with the server, with a kind, with single objects.
//!
//! An outage of the server is one problem, however many kinds it concerns. A change of the state is logged, a retry
//! that fails in the same way is not.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    failure::{Failure, Trouble},
    kind::Kind,
};
use balancing_core::digest::FEW;
use balancing_core::{
    objects::ObjectKey,
    source::{SourceProblem, title},
};

/// Objects with problems that are listed; the rest is a number.
const LISTED_OBJECTS: usize = 100;

/// What is wrong.
#[derive(Debug)]
pub(super) struct Health {
    server: String,
    outage: Option<Outage>,
    /// What is wrong with newer credentials.
    credentials: Option<String>,
    kinds: BTreeMap<Kind, Failure>,
    objects: BTreeMap<ObjectKey, Vec<String>>,
    /// By path, what the log says.
    logged: BTreeMap<String, Vec<String>>,
    changed: bool,
}

/// The server fails at least one kind.
#[derive(Debug)]
struct Outage {
    since: Timestamp,
    /// What the newest attempt says.
    trouble: Trouble,
    cause: String,
}

/// A problem and what of it matters to the log.
struct Line {
    problem: SourceProblem,
    state: String,
}

impl Health {
    /// Nothing is wrong yet.
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            outage: None,
            credentials: None,
            kinds: BTreeMap::new(),
            objects: BTreeMap::new(),
            logged: BTreeMap::new(),
            changed: false,
        }
    }

    /// A list or watch of this kind failed.
    pub(super) fn failed(&mut self, kind: Kind, failure: Failure) {
        if let Failure::Server(trouble, cause) = &failure {
            let now = Timestamp::now();
            let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
            let since = self.outage.take().map_or(seconds, |outage| outage.since);
            self.outage = Some(Outage { since, trouble: *trouble, cause: cause.clone() });
        }
        self.changed = true;
        self.kinds.insert(kind, failure);
        self.end_outage();
    }

    /// A list or watch of this kind works.
    pub(super) fn works(&mut self, kind: Kind) {
        self.changed |= self.kinds.remove(&kind).is_some();
        self.end_outage();
    }

    fn end_outage(&mut self) {
        if !self.kinds.values().any(|failure| matches!(failure, Failure::Server(..))) {
            self.outage = None;
        }
    }

    /// Newer credentials cannot be used, or can be again.
    pub(super) fn credentials(&mut self, problem: Option<String>) {
        self.changed |= self.credentials != problem;
        self.credentials = problem;
    }

    /// An object was read.
    pub(super) fn object(&mut self, key: &ObjectKey, problems: Vec<String>) {
        if problems.is_empty() {
            self.changed |= self.objects.remove(key).is_some();
        } else if self.objects.get(key) != Some(&problems) {
            self.objects.insert(key.clone(), problems);
            self.changed = true;
        }
    }

    /// The problems, when they may be others than the last time.
    pub(super) fn news(&mut self) -> Option<Vec<SourceProblem>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let lines = self.lines();
        self.log(&lines);
        Some(lines.into_iter().map(|line| line.problem).collect())
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<_> = self.server_line().into_iter().collect();
        let plain = |path: String, message: String| Line {
            state: message.clone(),
            problem: SourceProblem { path, message },
        };
        lines.extend(self.credentials.iter().map(|problem| plain("credentials".to_owned(), problem.clone())));
        for (kind, failure) in &self.kinds {
            match failure {
                Failure::Server(..) => {}
                Failure::Missing(message) | Failure::Kind(message) => {
                    lines.push(plain(kind.name().to_owned(), message.clone()));
                }
            }
        }
        for (key, messages) in self.objects.iter().take(LISTED_OBJECTS) {
            lines.extend(messages.iter().map(|message| plain(title(key), message.clone())));
        }
        let more = self.objects.len().saturating_sub(LISTED_OBJECTS);
        if more > 0 {
            let message = format!("{more} more objects have problems; correct the listed ones first");
            lines.push(Line {
                problem: SourceProblem { path: self.server.clone(), message },
                state: "more".to_owned(),
            });
        }
        lines.sort_by(|a, b| a.problem.path.cmp(&b.problem.path));
        lines
    }

    /// One line for all kinds.
    fn server_line(&self) -> Option<Line> {
        let Outage { since, trouble, cause } = self.outage.as_ref()?;
        Some(Line {
            problem: SourceProblem { path: self.server.clone(), message: trouble.since(since, cause) },
            state: trouble.since(since, ""),
        })
    }

    fn log(&mut self, lines: &[Line]) {
        let mut logged: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut news = Vec::new();
        for Line { problem, state } in lines {
            if !self.logged.get(&problem.path).is_some_and(|states| states.contains(state)) {
                news.push(problem);
            }
            logged.entry(problem.path.clone()).or_default().push(state.clone());
        }
        for SourceProblem { path, message } in news.iter().take(FEW) {
            tracing::warn!(path, "{message}");
        }
        if news.len() > FEW {
            let more = news.len() - FEW;
            tracing::warn!(more, "more problems");
        }
        let over: Vec<_> = self.logged.keys().filter(|path| !logged.contains_key(*path)).collect();
        for path in over.iter().take(FEW) {
            tracing::info!(path, "no problems left");
        }
        if over.len() > FEW {
            tracing::info!(more = over.len() - FEW, "more objects have no problems left");
        }
        self.logged = logged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Failure {
        Failure::Server(Trouble::Unreachable, "Connection refused".to_owned())
    }

    fn health() -> Health {
        Health::new("https://server".to_owned())
    }

    fn paths(problems: &[SourceProblem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.path.as_str()).collect()
    }

    #[test]
    fn an_outage_is_one_problem_until_every_kind_works() {
        let mut health = health();
        for kind in [Kind::Pod, Kind::Node, Kind::Service] {
            health.failed(kind, away());
        }
        let problems = health.news().unwrap();
        assert_eq!(paths(&problems), ["https://server"]);
        assert!(problems[0].message.starts_with("not reachable since 20"), "{problems:?}");
        assert!(problems[0].message.contains("Connection refused"), "{problems:?}");
        health.failed(Kind::Pod, away());
        assert_eq!(health.news().unwrap(), problems, "a retry is no news");
        health.works(Kind::Pod);
        health.works(Kind::Node);
        assert_eq!(paths(&health.news().unwrap()), ["https://server"]);
        health.works(Kind::Service);
        assert_eq!(health.news(), Some(Vec::new()));
        assert!(health.outage.is_none());
    }

    #[test]
    fn kinds_have_problems_of_their_own_beside_the_outage() {
        let mut health = health();
        health.failed(Kind::BalancingPolicy, Failure::Missing("install the CRDs".to_owned()));
        health.failed(Kind::Pod, away());
        assert_eq!(paths(&health.news().unwrap()), ["BalancingPolicy", "https://server"]);
        health.failed(Kind::Pod, Failure::Kind("not allowed".to_owned()));
        assert_eq!(paths(&health.news().unwrap()), ["BalancingPolicy", "Pod"]);
    }

    #[test]
    fn credentials_that_cannot_be_used_are_a_problem_until_they_can() {
        let mut health = health();
        health.credentials(Some("no certificate".to_owned()));
        let problems = health.news().unwrap();
        assert_eq!(paths(&problems), ["credentials"]);
        health.credentials(Some("no certificate".to_owned()));
        assert_eq!(health.news(), None);
        health.credentials(None);
        assert_eq!(health.news(), Some(Vec::new()));
    }

    #[test]
    fn the_log_gets_each_state_once() {
        let mut health = health();
        health.failed(Kind::Pod, away());
        health.news();
        let logged = health.logged.clone();
        health.failed(Kind::Pod, Failure::Server(Trouble::Unreachable, "Connection reset".to_owned()));
        assert!(health.news().unwrap()[0].message.contains("Connection reset"));
        assert_eq!(health.logged, logged, "another cause of the same outage is not another state");
        health.failed(Kind::Node, Failure::Server(Trouble::Rejects, "Unauthorized".to_owned()));
        assert!(health.news().unwrap()[0].message.contains("Unauthorized"), "the newest attempt knows best");
        assert_ne!(health.logged, logged);
    }

    #[test]
    fn objects_are_listed_until_they_are_well_up_to_a_number() {
        let mut health = health();
        let key = |i: usize| ObjectKey::Node(format!("n{i:03}"));
        for i in 0..LISTED_OBJECTS + 2 {
            health.object(&key(i), vec!["wrong".to_owned()]);
        }
        let problems = health.news().unwrap();
        assert_eq!(problems.len(), LISTED_OBJECTS + 1);
        assert_eq!((problems[0].path.as_str(), problems[0].message.as_str()), ("Node n000", "wrong"));
        assert!(problems[LISTED_OBJECTS].message.starts_with("2 more objects"), "{problems:?}");
        for i in 0..LISTED_OBJECTS + 2 {
            health.object(&key(i), Vec::new());
        }
        assert_eq!(health.news(), Some(Vec::new()));
        health.object(&key(0), Vec::new());
        assert_eq!(health.news(), None);
    }
}
