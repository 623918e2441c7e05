//! The duties of the controller, of whose replicas one is elected: it lists the pods that BalancingPolicies select in
//! EndpointSlices, tells in `status` what became of each policy and of the fabric, and removes what members of the fabric
//! left behind.
//!
//! All it knows comes from the API server, and all it leaves is there, so another replica can take over at any
//! moment. It touches no kernel table, and nothing on a node waits for it except news about pods of other nodes.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::source::Delivery;
use leader_election::{Election, ElectionError};

mod cache;
mod fabric;
mod leader;
mod leader_election;
mod ports;
mod rate_limit;
mod requests;
mod slices;
mod status;
mod store;
mod watch_event;
mod work_queue;

/// Wait before the next election after the duties ended by themselves.
const REST: Duration = Duration::from_secs(5);
/// So long an orderly stop may wait for the API server.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the leader counts. All numbers only grow, unless they say otherwise.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// This is the leader at the moment.
    pub is_leader: AtomicBool,
    /// It is the leader and knows the whole cluster: before that it writes nothing.
    pub is_synced: AtomicBool,
    /// The API server has answered the last question about the Lease.
    pub has_contact: AtomicBool,
    /// EndpointSlices created, updated or deleted.
    pub slice_writes: AtomicU64,
    /// Such writes that failed, conflicts included.
    pub slice_errors: AtomicU64,
    /// `status` writes.
    pub status_writes: AtomicU64,
    /// Such writes that failed.
    pub status_errors: AtomicU64,
    /// Writes for the fabric.
    pub fabric_writes: AtomicU64,
    /// Such writes that failed.
    pub fabric_errors: AtomicU64,
    /// Policies whose `status` waits to be written now. Shrinks, too.
    pub status_pending: AtomicU64,
}

/// What the duties need.
pub struct Context<S> {
    /// The API server.
    pub client: kube::Client,
    /// Namespace of the Lease and of the EndpointSlices.
    pub namespace: String,
    /// Who this is in the election: no two processes have the same.
    pub identity: String,
    /// Starts a source of the scope [`Cluster`](crate::source::Scope::Cluster); called at the begin of each term.
    /// The source ends when its receiver is dropped.
    pub source: S,
    /// Counters.
    pub stats: Arc<ClusterStats>,
}

/// How a term ended.
enum End {
    Cancelled,
    Lost(ElectionError),
    Failed(String),
}

/// Takes part in the election and does the duties while elected, until `cancel` is ready. Whatever is under way
/// then is dropped, and the Lease is given back.
pub async fn run<S>(context: Context<S>, cancel: impl Future<Output = ()>)
where
    S: FnMut() -> mpsc::Receiver<Delivery>,
{
    let Context { client, namespace, identity, mut source, stats } = context;
    let mut cancel = pin!(cancel);
    let election = Election::new(client.clone(), &namespace, &identity, &stats);
    loop {
        let term = tokio::select! {
            () = &mut cancel => break,
            term = election.win() => term,
        };
        tracing::info!(namespace, "elected: lists endpoints and writes status for the cluster");
        stats.is_leader.store(true, Relaxed);
        let end = tokio::select! {
            biased;
            () = &mut cancel => End::Cancelled,
            error = election.keep(term) => End::Lost(error),
            reason = leader::lead(&client, &namespace, &identity, source(), &stats) => End::Failed(reason),
        };
        stats.is_leader.store(false, Relaxed);
        stats.is_synced.store(false, Relaxed);
        stats.status_pending.store(0, Relaxed);
        match end {
            End::Cancelled => break,
            End::Lost(error) => tracing::warn!("{error}; another replica takes over"),
            End::Failed(reason) => {
                tracing::error!("the duties end: {reason}; another replica takes over");
                election.release().await;
                tokio::select! {
                    () = &mut cancel => return,
                    () = sleep(REST) => {}
                }
            }
        }
    }
    // Even a candidate may have won the Lease, by a request whose answer was not waited for.
    if timeout(FAREWELL, election.release()).await.is_err() {
        tracing::warn!("the API server does not answer; a successor waits until the Lease runs out");
    }
}
