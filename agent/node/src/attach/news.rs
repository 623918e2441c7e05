//! What the log says about pods: few one by one, many as a number with one of them by name.

use std::collections::BTreeMap;

use balancing_core::digest::FEW;

/// What happened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// It has links now.
    Attached,
    /// It has links now, after it was told that it has none.
    AttachedAfterAll,
    /// Its links have programs of this agent now.
    Updated,
    /// Its links were taken away.
    Detached,
    /// It ended, and its links with it.
    Gone,
    /// It wants links and has none.
    NotAttached,
    /// Its links are not those that the agent wants.
    Outdated,
}

/// What happened to pods in a round.
#[derive(Debug, Default)]
pub(super) struct News(Vec<(Event, String, String)>);

/// A line of the log: so many pods, one of them, and why.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    event: Event,
    pods: usize,
    pod: &'a str,
    why: &'a str,
}

impl Event {
    fn words(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::AttachedAfterAll => "attached after all",
            Self::Updated => "up to date",
            Self::Detached => "detached",
            Self::Gone => "gone, the links are removed",
            Self::NotAttached => "not attached",
            Self::Outdated => "not up to date",
        }
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::NotAttached | Self::Outdated)
    }
}

impl News {
    /// Notes what happened to a pod; `why` is empty where there is nothing to explain.
    pub(super) fn add(&mut self, event: Event, pod: impl Into<String>, why: impl Into<String>) {
        self.0.push((event, pod.into(), why.into()));
    }

    /// Logs it.
    pub(super) fn log(&self) {
        for Line { event, pods, pod, why } in self.lines() {
            let (words, colon) = (event.words(), if why.is_empty() { "" } else { ": " });
            match (event.is_bad(), pods) {
                (true, 1) => tracing::warn!(pod, "pod is {words}{colon}{why}"),
                (true, _) => tracing::warn!(pods, "pods are {words}, such as {pod}{colon}{why}"),
                (false, 1) => tracing::info!(pod, "pod is {words}{colon}{why}"),
                (false, _) => tracing::info!(pods, "pods are {words}, such as {pod}{colon}{why}"),
            }
        }
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let each = self.0.iter().map(|(event, pod, why)| Line { event: *event, pods: 1, pod, why });
        if self.0.len() <= FEW {
            return each.collect();
        }
        let mut by_event = BTreeMap::<Event, Line<'_>>::new();
        for line in each {
            by_event.entry(line.event).and_modify(|first| first.pods += 1).or_insert(line);
        }
        by_event.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pods_are_told_one_by_one_and_many_as_a_number() {
        let mut news = News::default();
        news.add(Event::NotAttached, "default/late", "no cgroup");
        for number in 1..FEW {
            news.add(Event::Attached, format!("default/web-{number}"), "");
        }
        let lines = news.lines();
        assert_eq!(lines.len(), FEW);
        assert_eq!(
            lines[0],
            Line { event: Event::NotAttached, pods: 1, pod: "default/late", why: "no cgroup" }
        );
        news.add(Event::NotAttached, "default/later", "no cgroup either");
        assert_eq!(
            news.lines(),
            [
                Line { event: Event::Attached, pods: FEW - 1, pod: "default/web-1", why: "" },
                Line { event: Event::NotAttached, pods: 2, pod: "default/late", why: "no cgroup" },
            ]
        );
    }
}
