//! The names of clients, policies and backends as the data-plane thread knows them, for whoever hears numbers and addresses.
//! They are told only while somebody listens.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_core::view::{self, OwnerView};
use balancing_dataplane::model::ClientId;
use tokio::sync::watch;

use crate::world::World;

/// Telling takes at most one part in so many of the thread's time.
const SHARE: u32 = 10;

/// Names at one moment.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// `namespace/name` of local pods, by what their connections are recognised.
    pub(super) pods: BTreeMap<ClientId, Arc<str>>,
    /// The cgroups of local pods. Containers have theirs below.
    pub(super) cgroups: Vec<(PathBuf, Arc<str>)>,
    /// Policies by service id.
    pub(super) policies: HashMap<u32, OwnerView>,
    /// `namespace/name` of the pods behind backends.
    pub(super) backends: HashMap<SocketAddr, String>,
}

/// Tells the names, while somebody listens and after every change.
pub(crate) struct Teller {
    names: watch::Sender<Arc<Names>>,
    is_listened_to: bool,
    is_stale: bool,
    next: Instant,
}

impl Names {
    fn of(world: &World) -> Self {
        let (mut names, snapshot) = (Self::default(), world.owner.engine().snapshot());
        for pod in snapshot.pods_on(&world.node) {
            let name: Arc<str> = format!("{}/{}", pod.namespace, pod.name).into();
            let ids = snapshot.identities(&pod.uid).into_iter().flatten();
            names.pods.extend(ids.map(|id| (*id, Arc::clone(&name))));
            names.cgroups.extend(world.attacher.cgroup_of(&pod.uid).map(|path| (path.to_owned(), name)));
        }
        // What waits for a kind that is lacking is known to the tables only; of others the verdicts know more.
        for (id, policy) in world.owner.tables().policies() {
            let owner = OwnerView { kind: policy.kind.to_string(), name: policy.name.clone() };
            names.policies.insert(*id, owner);
        }
        for (policy, verdict) in world.owner.engine().verdicts() {
            if world.owner.engine().id_winner_over(policy).is_none() {
                names.policies.insert(verdict.service_id, OwnerView::from(policy));
            }
        }
        for (_, entry) in world.owner.engine().entries() {
            let named = view::origins(&entry)
                .filter_map(|origin| Some((SocketAddr::new(origin.address, origin.port), origin.pod?)));
            names.backends.extend(named);
        }
        names
    }
}

impl Teller {
    pub(crate) fn new(names: watch::Sender<Arc<Names>>) -> Self {
        Self { names, is_listened_to: false, is_stale: false, next: Instant::now() }
    }

    /// Somebody listens, or nobody any more.
    pub(crate) fn listen(&mut self, on: bool) {
        (self.is_listened_to, self.is_stale, self.next) = (on, on, Instant::now());
        if !on {
            self.names.send_replace(Arc::default());
        }
    }

    /// Something may have another name now.
    pub(crate) fn changed(&mut self) {
        self.is_stale = self.is_listened_to;
    }

    /// When the names are to be told.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.is_stale.then_some(self.next)
    }

    /// Tells them if they are due.
    pub(crate) fn tell(&mut self, world: &World) {
        let start = Instant::now();
        if self.due().is_none_or(|due| due > start) {
            return;
        }
        self.names.send_replace(Arc::new(Names::of(world)));
        self.is_stale = false;
        self.next = start + rest_after(start.elapsed());
    }
}

/// Until the names may be told again, from the beginning of the last time.
fn rest_after(took: Duration) -> Duration {
    took * SHARE
}
