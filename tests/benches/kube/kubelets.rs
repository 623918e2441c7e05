//! What the kubelets of many nodes tell the API server, whatever happens: that they live.
//!
//! Each renews its Lease and writes the heartbeats of its Node's conditions every ten seconds. Today's kubelets do the
//! latter every five minutes unless something else changes; this is the older default, and thirty times the stress.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use balancing_tests::Object;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{fleet::node_name, world::World};

/// Between two signs of life of a kubelet.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "kube-node-lease";

/// The kubelets of some nodes at work, until the drop.
pub(crate) struct Kubelets {
    count: Arc<AtomicU64>,
    /// Its end ends them.
    _stop: oneshot::Sender<()>,
}

impl Kubelets {
    /// Starts those of nodes by number, spread over the period.
    pub(crate) fn start(world: &World, nodes: RangeInclusive<usize>) -> Self {
        let client = world.plane.client();
        client.create_many(nodes.clone().map(lease)).expect("Leases are created");
        let (count, (stop, stopped)) = (Arc::new(AtomicU64::new(0)), oneshot::channel());
        let (of_nodes, of_leases) = (Api::all(client.kube()), Api::namespaced(client.kube(), NAMESPACE));
        let told = Arc::clone(&count);
        let share = PERIOD / u32::try_from(nodes.clone().count()).expect("a small number");
        client.spawn(async move {
            let mut kubelets = JoinSet::new();
            for (number, node) in (0..).zip(nodes) {
                let (of_nodes, of_leases) = (of_nodes.clone(), of_leases.clone());
                let (name, told) = (node_name(node), Arc::clone(&told));
                kubelets.spawn(async move {
                    sleep(share * number).await;
                    live(&of_nodes, &of_leases, &name, &told).await;
                });
            }
            stopped.await.ok();
        });
        Self { count, _stop: stop }
    }

    /// Signs of life that the API server took so far, of both kinds.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

async fn live(nodes: &Api<Node>, leases: &Api<Lease>, name: &str, count: &AtomicU64) {
    let (mut ticks, how) = (interval(PERIOD), PatchParams::default());
    loop {
        ticks.tick().await;
        let now = Timestamp::now();
        let beat = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": Time(now)});
        let patch = Patch::Strategic(json!({"status": {"conditions": [beat]}}));
        nodes.patch_status(name, &how, &patch).await.expect("the Node is there");
        let patch = Patch::Merge(json!({"spec": {"renewTime": MicroTime(now)}}));
        leases.patch(name, &how, &patch).await.expect("the Lease is there");
        count.fetch_add(2, Relaxed);
    }
}

fn lease(node: usize) -> Object {
    let name = node_name(node);
    Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, &name)
        .with("/spec/holderIdentity", name.as_str())
        .with("/spec/leaseDurationSeconds", 40)
}
