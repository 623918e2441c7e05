//! Leader election: one controller among its replicas is the holder of a Lease of `coordination.k8s.io/v1`.
//!
//! Every write names the resource version it was decided on, so of two takers one wins. A candidate never compares
//! clocks with the holder: a Lease has run out when the candidate itself has seen no renewal for its duration. The
//! holder gives up well before that when it cannot renew. There are few candidates: they ask for the Lease every two seconds.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{error::Elapsed, sleep, sleep_until, timeout};

use super::{ClusterStats, rate_limit::jitter};
use crate::source::cause;
use balancing_core::names::{FIELD_MANAGER, LEASE};

/// After so long without a renewal the Lease is free.
const DURATION: Duration = Duration::from_secs(15);
/// So long after its last renewal the holder stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Time between attempts that fail.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks of a candidate at the Lease; after failures it grows to the second one.
const POLL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));
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
    #[error("Lease {LEASE}: {}", cause(.0))]
    Request(#[from] Box<kube::Error>),
    /// No answer.
    #[error("Lease {LEASE}: the API server does not answer")]
    NoAnswer,
    /// Somebody else holds it, or it is gone.
    #[error("Lease {LEASE}: {0} holds it now")]
    Lost(String),
}

/// One replica's part in the election.
pub(super) struct Election<'a> {
    api: Api<Lease>,
    identity: String,
    stats: &'a ClusterStats,
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
    /// Whether the Lease has been asked for with success.
    is_known: bool,
    lease: Option<Lease>,
    /// When the Lease may be taken; `None` until it is known whether there is one.
    free_at: Option<Instant>,
}

impl<'a> Election<'a> {
    pub(super) fn new(client: Client, namespace: &str, identity: &str, stats: &'a ClusterStats) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned(), stats }
    }

    /// Notes whether the API server has answered. A refusal is an answer, too, but not one to work with.
    fn heard<T>(&self, result: Result<T, ElectionError>) -> Result<T, ElectionError> {
        let conflict = |error: &ElectionError| matches!(error, ElectionError::Request(e) if is_outdated(e));
        let is_heard = result.as_ref().map_or_else(conflict, |_| true);
        self.stats.has_contact.store(is_heard, Relaxed);
        result
    }

    /// Waits until the Lease is won.
    pub(super) async fn win(&self) -> Term {
        let (mut view, mut pause, mut told) = (View::default(), POLL.0, String::new());
        loop {
            match self.read().await {
                Ok(lease) => {
                    view.observe(lease, &self.identity, Instant::now());
                    (pause, told) = (POLL.0, String::new());
                }
                Err(error) => {
                    pause = (pause * 2).min(POLL.1);
                    // The same words again are no news.
                    let text = error.to_string();
                    if text != told {
                        tracing::warn!("{text}");
                        told = text;
                    }
                }
            }
            let next = Instant::now() + pause + jitter(SPREAD);
            if let Some(free_at) = view.free_at.filter(|free_at| *free_at <= next) {
                sleep_until(free_at.into()).await;
                let renewed = Instant::now();
                match self.write(take(view.lease.as_ref(), &self.identity)).await {
                    Ok(lease) => return Term { lease, renewed },
                    // Usually somebody was faster; the next look shows it.
                    Err(error) => tracing::debug!("{error}"),
                }
                view.free_at = None;
                view.is_known = false;
            }
            sleep_until(next.into()).await;
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
        let answer = timeout(ANSWER, self.api.get_opt(LEASE)).await;
        self.heard(answered(answer))
    }

    async fn write(&self, lease: Lease) -> Result<Lease, ElectionError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let request = async {
            match lease.metadata.resource_version {
                Some(_) => self.api.replace(LEASE, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        self.heard(answered(timeout(ANSWER, request).await))
    }
}

fn answered<T>(answer: Result<kube::Result<T>, Elapsed>) -> Result<T, ElectionError> {
    let answer = answer.map_err(|_elapsed| ElectionError::NoAnswer)?;
    Ok(answer.map_err(Box::new)?)
}

impl View {
    fn observe(&mut self, lease: Option<Lease>, identity: &str, now: Instant) {
        let version =
            |lease: &Option<Lease>| lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
        // A look that only repeats what is known must not start the wait anew.
        if self.is_known && version(&self.lease) == version(&lease) {
            return;
        }
        self.is_known = true;
        self.free_at =
            Some(now + lease.as_ref().map_or_else(|| jitter(SPREAD), |lease| wait(lease, identity)));
        self.lease = lease;
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// How long a candidate that has just seen this Lease waits before it takes it.
fn wait(lease: &Lease, identity: &str) -> Duration {
    match holder(lease) {
        "" => jitter(SPREAD),
        // Left by this very process: a write whose answer was lost.
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
    fn a_lease_that_is_held_is_waited_for_and_a_repeated_look_starts_nothing_anew() {
        let (mut view, now) = (View::default(), Instant::now());
        assert_eq!(view.free_at, None, "not known yet");
        view.observe(Some(seen("1", "other")), "me", now);
        let first = free_after(&view, now);
        assert!(first >= DURATION && first <= DURATION + SPREAD, "{first:?}");
        let later = now + RENEW;
        view.observe(Some(seen("1", "other")), "me", later);
        assert_eq!(free_after(&view, now), first, "nothing was renewed");
        view.observe(Some(seen("2", "other")), "me", later);
        assert!(free_after(&view, later) >= DURATION, "a renewal");
    }

    #[test]
    fn a_free_lease_is_taken_soon() {
        let now = Instant::now();
        for before in [None, Some(seen("1", "other"))] {
            let mut view = View { is_known: before.is_some(), lease: before, ..View::default() };
            view.observe(None, "me", now);
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
