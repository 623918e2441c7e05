//! One agent among all: the holder of a Lease of `coordination.k8s.io/v1`.
//!
//! Every write names the resource version it was decided on, so of two takers one wins. A candidate never compares
//! clocks with the holder: a Lease has run out when the candidate itself has seen no renewal for its duration. The
//! holder gives up well before that when it cannot renew. Candidates watch the Lease instead of asking for it, since
//! there is one on every node.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use tokio::time::{sleep, sleep_until, timeout};

use super::pace::jitter;
use balancing_core::names::{FIELD_MANAGER, LEASE};

/// After so long without a renewal the Lease is free.
const DURATION: Duration = Duration::from_secs(15);
/// So long after its last renewal the holder stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Time between attempts that fail.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Candidates spread their attempts over this time.
const SPREAD: Duration = Duration::from_millis(500);
/// A Lease that claims to last longer is not believed.
const LONGEST: Duration = Duration::from_secs(60);

/// Why a request about the Lease failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElectionError {
    /// The API server refuses it or cannot be reached.
    #[error("Lease {LEASE}: {0}")]
    Request(#[from] Box<kube::Error>),
    /// No answer.
    #[error("Lease {LEASE}: the API server does not answer")]
    NoAnswer,
    /// Somebody else holds it, or it is gone.
    #[error("Lease {LEASE}: {0} holds it now")]
    Lost(String),
}

/// One agent's part in the election.
pub(super) struct Election {
    api: Api<Lease>,
    identity: String,
}

/// A won election.
pub(super) struct Term {
    lease: Lease,
    /// The latest time at which the Lease was certainly ours: that of the request, not of its answer.
    renewed: Instant,
}

/// What a candidate has seen.
#[derive(Default)]
struct View {
    lease: Option<Lease>,
    /// A list is coming in and has not shown the Lease.
    absent: bool,
    /// When the Lease may be taken; `None` until it is known whether there is one.
    free_at: Option<Instant>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned() }
    }

    /// Waits until the Lease is won.
    pub(super) async fn win(&self) -> Term {
        let config = watcher::Config::default().fields(&format!("metadata.name={LEASE}"));
        let mut news = pin!(watcher(self.api.clone(), config).default_backoff());
        let mut view = View::default();
        loop {
            let free_at = view.free_at.unwrap_or_else(Instant::now);
            tokio::select! {
                event = news.try_next() => match event {
                    Ok(Some(event)) => view.observe(event, &self.identity, Instant::now()),
                    Ok(None) => sleep(RETRY).await,
                    Err(error) => tracing::warn!("Lease {LEASE}: {error}"),
                },
                () = sleep_until(free_at.into()), if view.free_at.is_some() => {
                    let renewed = Instant::now();
                    match self.write(take(view.lease.as_ref(), &self.identity)).await {
                        Ok(lease) => return Term { lease, renewed },
                        // Usually somebody was faster, and the news are under way.
                        Err(error) => tracing::debug!("{error}"),
                    }
                    view.free_at = Some(Instant::now() + RETRY + jitter(RETRY));
                }
            }
        }
    }

    /// Holds the Lease until that is no longer possible; why.
    pub(super) async fn keep(&self, mut term: Term) -> ElectionError {
        loop {
            sleep_until((term.renewed + RENEW).into()).await;
            if let Err(error) = self.renew(&mut term).await {
                let over = matches!(error, ElectionError::Lost(_));
                if over || term.renewed + DEADLINE <= Instant::now() + RETRY {
                    return error;
                }
                tracing::warn!("{error}");
                sleep(RETRY).await;
            }
        }
    }

    async fn renew(&self, term: &mut Term) -> Result<(), ElectionError> {
        let renewed = Instant::now();
        let mut lease = term.lease.clone();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        let left = (term.renewed + DEADLINE).saturating_duration_since(renewed);
        match timeout(left, self.write(lease)).await.unwrap_or(Err(ElectionError::NoAnswer)) {
            Ok(lease) => *term = Term { lease, renewed },
            // Somebody wrote to it; that is no harm as long as the holder is the same.
            Err(ElectionError::Request(error)) if is_outdated(&error) => match self.read().await? {
                Some(lease) if holder(&lease) == self.identity => term.lease = lease,
                lease => {
                    return Err(ElectionError::Lost(
                        lease.map_or("nobody".to_owned(), |l| holder(&l).to_owned()),
                    ));
                }
            },
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives the Lease back, if it is ours, so that a successor need not wait.
    pub(super) async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.read().await?.filter(|lease| holder(lease) == self.identity) else {
                return Ok(());
            };
            lease.spec.get_or_insert_default().holder_identity = None;
            self.write(lease).await.map(drop)
        };
        if let Err(error) = released.await {
            tracing::warn!("{error}; a successor has to wait until it runs out");
        }
    }

    async fn read(&self) -> Result<Option<Lease>, ElectionError> {
        let answer = timeout(ANSWER, self.api.get_opt(LEASE)).await.ok().ok_or(ElectionError::NoAnswer)?;
        Ok(answer.map_err(Box::new)?)
    }

    async fn write(&self, lease: Lease) -> Result<Lease, ElectionError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let request = async {
            match lease.metadata.resource_version {
                Some(_) => self.api.replace(LEASE, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        let answer = timeout(ANSWER, request).await.ok().ok_or(ElectionError::NoAnswer)?;
        Ok(answer.map_err(Box::new)?)
    }
}

impl View {
    fn observe(&mut self, event: Event<Lease>, identity: &str, now: Instant) {
        match event {
            Event::Init => self.absent = true,
            Event::InitApply(lease) | Event::Apply(lease) => {
                self.absent = false;
                let version = |lease: &Lease| lease.metadata.resource_version.clone();
                // A list that only repeats what is known must not start the wait anew.
                if self.lease.as_ref().is_none_or(|known| version(known) != version(&lease)) {
                    self.free_at = Some(now + wait(&lease, identity));
                    self.lease = Some(lease);
                }
            }
            Event::InitDone if !self.absent => {}
            Event::InitDone | Event::Delete(_) => {
                self.lease = None;
                self.free_at = Some(now + jitter(SPREAD));
            }
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// How long a candidate that has just seen this Lease waits before it takes it.
fn wait(lease: &Lease, identity: &str) -> Duration {
    match holder(lease) {
        "" => jitter(SPREAD),
        // Left by an agent that ran here before.
        holder if holder == identity => Duration::ZERO,
        _ => {
            let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let duration = seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
            duration.min(LONGEST) + jitter(SPREAD)
        }
    }
}

/// The Lease as its new holder writes it.
fn take(seen: Option<&Lease>, identity: &str) -> Lease {
    let transitions = seen.and_then(|lease| lease.spec.as_ref()?.lease_transitions).unwrap_or(0);
    let changes_hands = seen.is_some_and(|lease| holder(lease) != identity);
    let now = MicroTime(Timestamp::now());
    let metadata = match seen {
        Some(lease) => lease.metadata.clone(),
        None => ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
    };
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions.saturating_add(i32::from(changes_hands))),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}

fn is_outdated(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_not_found())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, identity: &str) -> Lease {
        let mut lease = take(None, identity);
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn free_after(view: &View, now: Instant) -> Duration {
        view.free_at.unwrap() - now
    }

    #[test]
    fn a_lease_that_is_held_is_waited_for_and_a_repeated_list_starts_nothing_anew() {
        let (mut view, now) = (View::default(), Instant::now());
        view.observe(Event::Init, "me", now);
        assert_eq!(view.free_at, None, "not known yet");
        view.observe(Event::InitApply(seen("1", "other")), "me", now);
        view.observe(Event::InitDone, "me", now);
        let first = free_after(&view, now);
        assert!(first >= DURATION && first <= DURATION + SPREAD, "{first:?}");
        let later = now + RENEW;
        view.observe(Event::Init, "me", later);
        view.observe(Event::InitApply(seen("1", "other")), "me", later);
        view.observe(Event::InitDone, "me", later);
        assert_eq!(free_after(&view, now), first, "nothing was renewed");
        view.observe(Event::Apply(seen("2", "other")), "me", later);
        assert!(free_after(&view, later) >= DURATION, "a renewal");
    }

    #[test]
    fn a_free_lease_is_taken_soon() {
        let now = Instant::now();
        for event in [Event::InitDone, Event::Delete(seen("1", "other"))] {
            let mut view = View { absent: true, ..View::default() };
            view.observe(event, "me", now);
            assert!(free_after(&view, now) <= SPREAD && view.lease.is_none());
        }
        let mut released = seen("1", "other");
        released.spec.as_mut().unwrap().holder_identity = None;
        assert!(wait(&released, "me") <= SPREAD);
        assert_eq!(wait(&seen("1", "me"), "me"), Duration::ZERO);
        let mut forever = seen("1", "other");
        forever.spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
        assert!(wait(&forever, "me") <= LONGEST + SPREAD);
    }

    #[test]
    fn only_a_change_of_hands_counts_as_a_transition() {
        let transitions = |lease: &Lease| lease.spec.as_ref().unwrap().lease_transitions;
        let mine = take(Some(&seen("1", "other")), "me");
        assert_eq!((transitions(&mine), holder(&mine)), (Some(1), "me"));
        assert_eq!(mine.metadata.resource_version.as_deref(), Some("1"), "of two takers one wins");
        assert_eq!(transitions(&take(Some(&mine), "me")), Some(1));
    }
}
