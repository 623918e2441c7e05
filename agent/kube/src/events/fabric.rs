//! Events on TunnelFabrics: what an operator must know of them. Members tell why they cannot join, the controller what concerns all.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use kube::runtime::events::{Event, EventType};
use tokio::{sync::watch, time::sleep_until};

use super::{
    regarding,
    schedule::{Next, Notice, Schedule, State},
    writer::Writer,
};

/// So long something must be wrong before it is told: much is by itself over by then, above all while members join.
const STANDS: Duration = Duration::from_secs(30);
/// So much longer at most for one member than for another: what concerns all members at once shall not come from all at once.
const SPREAD: Duration = Duration::from_secs(60);

/// What may be told of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Name of the TunnelFabric.
    pub fabric: String,
    /// `reason` of the Event.
    pub reason: &'static str,
}

/// How that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `metadata.uid` of the TunnelFabric.
    pub uid: String,
    /// What is wrong, in words; `None` = nothing any more.
    pub problem: Option<String>,
    /// When it went wrong.
    pub since: Instant,
}

/// All that there is to tell.
pub type Troubles = BTreeMap<Subject, Trouble>;

/// Writes Events on TunnelFabrics in the name of one node or controller.
pub struct FabricEvents {
    writer: Writer,
    /// What the end of a trouble is called, and what is said of it; the controller says nothing, for status does.
    over: Option<(&'static str, String)>,
    /// So long something must be wrong before it is told.
    stands: Duration,
    schedule: Schedule<Subject, Trouble>,
}

/// Takes in how a subject is; whether that is news. One that was never in trouble is no subject.
pub fn note(
    troubles: &mut Troubles,
    subject: Subject,
    uid: &str,
    problem: Option<String>,
    now: Instant,
) -> bool {
    let new = |problem| Trouble { uid: uid.to_owned(), problem, since: now };
    match troubles.get_mut(&subject) {
        None if problem.is_none() => false,
        None => troubles.insert(subject, new(problem)).is_none(),
        Some(known) if known.uid == uid && known.problem == problem => false,
        Some(known) => {
            let goes_on = known.uid == uid && (known.problem.is_some() || problem.is_none());
            let since = if goes_on { known.since } else { now };
            *known = Trouble { since, ..new(problem) };
            true
        }
    }
}

impl State for Trouble {
    type Problem = String;

    fn uid(&self) -> &str {
        &self.uid
    }

    fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }
}

impl FabricEvents {
    /// Nothing is written before [`Self::run`].
    #[must_use]
    pub fn new(client: kube::Client, instance: &str, over: Option<(&'static str, String)>) -> Self {
        // There is one controller, but many members.
        let stands = if over.is_some() { STANDS + share_of(instance) } else { STANDS };
        Self { writer: Writer::new(client, instance), over, stands, schedule: Schedule::new(Instant::now()) }
    }

    /// Writes Events until nobody tells troubles any more.
    pub async fn run(mut self, mut troubles: watch::Receiver<Troubles>) {
        loop {
            let now = Instant::now();
            let (standing, stands) = standing(&troubles.borrow_and_update(), self.stands, now);
            let next = match self.schedule.next(now, &standing) {
                Next::Tell(notice) => {
                    self.tell(notice).await;
                    continue;
                }
                Next::At(at) => Some(at),
                Next::Nothing => None,
            };
            let due = next.into_iter().chain(stands).min();
            tokio::select! {
                changed = troubles.changed() => if changed.is_err() { return },
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
            }
        }
    }

    async fn tell(&self, Notice { subject, state }: Notice<Subject, Trouble>) {
        let (type_, reason, note) = match state.problem {
            Some(problem) => (EventType::Warning, subject.reason, problem),
            None => {
                let Some((reason, note)) = self.over.clone() else { return };
                (EventType::Normal, reason, note)
            }
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Connect".to_owned(),
            secondary: None,
        };
        self.writer.write(event, &regarding("TunnelFabric", &subject.fabric, &state.uid)).await;
    }
}

/// A member's share of [`SPREAD`]: always the same, so that a restart tells nothing sooner or later.
fn share_of(instance: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    Duration::from_millis(hasher.finish() % (SPREAD.as_secs() * 1000))
}

/// What has been so for long enough, and when more will have been. A problem that changes its words has not begun anew.
fn standing(troubles: &Troubles, stands: Duration, now: Instant) -> (Troubles, Option<Instant>) {
    let (standing, young): (Troubles, Troubles) =
        troubles.clone().into_iter().partition(|(_, trouble)| trouble.since + stands <= now);
    (standing, young.values().map(|trouble| trouble.since + stands).min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_soon_is_not_told() {
        let now = Instant::now();
        let subject = |reason| Subject { fabric: "f".to_owned(), reason };
        let trouble = |since| Trouble { uid: "u".to_owned(), problem: Some("x".to_owned()), since };
        let troubles = [(subject("Old"), trouble(now)), (subject("New"), trouble(now + STANDS))].into();
        let (told, next) = standing(&troubles, STANDS, now + STANDS);
        assert_eq!(
            (told.into_keys().collect::<Vec<_>>(), next),
            (vec![subject("Old")], Some(now + STANDS * 2))
        );
    }

    #[test]
    fn many_members_do_not_tell_at_once() {
        let mut seconds = [0; 60];
        for number in 0..6000 {
            let name = format!("n{number}");
            assert_eq!(share_of(&name), share_of(&name));
            seconds[share_of(&name).as_secs() as usize] += 1;
        }
        assert!(seconds.iter().all(|count| (50..200).contains(count)), "{seconds:?}");
    }

    #[test]
    fn a_trouble_begins_when_it_was_not_there() {
        let (now, mut troubles) = (Instant::now(), Troubles::new());
        let subject = Subject { fabric: "f".to_owned(), reason: "X" };
        let mut look = |uid: &str, problem: Option<&str>, seconds: u64| {
            let at = now + Duration::from_secs(seconds);
            let is_news = note(&mut troubles, subject.clone(), uid, problem.map(str::to_owned), at);
            is_news.then(|| troubles[&subject].since.duration_since(now).as_secs())
        };
        let said = [
            look("u", None, 0),
            look("u", Some("a"), 1),
            look("u", Some("a"), 2),
            look("u", Some("b"), 3),
            look("u", None, 4),
            look("u", Some("b"), 5),
            look("v", Some("b"), 6),
        ];
        assert_eq!(said, [None, Some(1), None, Some(1), Some(1), Some(5), Some(6)]);
    }
}
