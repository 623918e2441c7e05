//! A source on a server that does what a test tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{KubeSource, Scope, WatchStats};
use balancing_abi::model::PolicyKind;
use balancing_core::{
    kinds::{Lacking, ObjectKind},
    objects::{Object, ObjectKey},
    source::{Batch, Change, SourceStatus, title},
};
use fake::{Fake, Quirk};

mod fake;
mod quirks;

/// Longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// Resources that [`node_scope`] watches.
const RESOURCES: [&str; 8] = [
    "localredirectpolicies",
    "balancingpolicies",
    "services",
    "nodes",
    "pods",
    "endpointslices",
    "tunnelfabrics",
    "tunnelnodes",
];

/// A source, and what a consumer of it would know.
struct Harness {
    batches: mpsc::Receiver<Batch>,
    status: watch::Receiver<SourceStatus>,
    stats: Arc<WatchStats>,
    task: JoinHandle<()>,
    known: BTreeMap<ObjectKey, Object>,
    synced: bool,
    lacking: Lacking,
    deleted: Vec<String>,
    taken: usize,
}

impl Harness {
    fn start(fake: &Fake, scope: &Scope) -> Self {
        let source = KubeSource::new(&fake.connection(), scope, "own");
        let stats = source.stats();
        let (sender, batches) = mpsc::channel(1);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let task = tokio::spawn(source.run(sender, status_sender, std::future::pending()));
        let (known, lacking, deleted) = Default::default();
        Self { batches, status, stats, task, known, synced: false, lacking, deleted, taken: 0 }
    }

    /// Takes batches until the condition holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(self) {
            let batch = tokio::select! {
                batch = timeout_at(deadline, self.batches.recv()) => batch,
                () = sleep(Duration::from_millis(5)) => continue_until(deadline, what, &self.status),
            };
            if let Ok(Some(batch)) = batch {
                self.take(batch);
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        let keys: Vec<_> = batch
            .changes
            .iter()
            .map(|change| match change {
                Change::Upsert(object) => object.key(),
                Change::Delete(key) => key.clone(),
            })
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "not once each in order: {keys:?}");
        assert!(batch.synced || !self.synced, "no longer synced");
        assert!(!self.synced || batch.lacking.is_subset(&self.lacking), "what was there is lacking");
        (self.synced, self.lacking) = (batch.synced, batch.lacking);
        self.taken += 1;
        for change in batch.changes {
            match change {
                Change::Upsert(object) => drop(self.known.insert(object.key(), object)),
                Change::Delete(key) => {
                    self.deleted.push(title(&key));
                    self.known.remove(&key);
                }
            }
        }
    }

    fn titles(&self) -> Vec<String> {
        self.known.keys().map(title).collect()
    }

    fn pod(&self, name: &str) -> Option<&balancing_core::objects::Pod> {
        self.known.values().find_map(|object| match object {
            Object::Pod(pod) if pod.name == name => Some(pod),
            _ => None,
        })
    }

    fn problems(&self) -> Vec<String> {
        let status = self.status.borrow();
        status.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer of a look at the time: go on, or the test has failed.
fn continue_until(
    deadline: Instant,
    what: &str,
    status: &watch::Receiver<SourceStatus>,
) -> Result<Option<Batch>, tokio::time::error::Elapsed> {
    assert!(Instant::now() < deadline, "not in time: {what}; {:?}", status.borrow());
    Ok(None)
}

fn node_scope() -> Scope {
    Scope::Node { name: "n1".to_owned() }
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "n1"},
           "status": {"podIP": ip}})
}

fn cluster_scoped(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test]
async fn all_lists_come_and_then_it_is_synced() {
    let streams = requests_for_lists(None).await;
    assert!(streams.iter().all(|request| request.contains("watch=true")), "{streams:?}");
    let asked = "/api/v1/nodes?&watch=true&timeoutSeconds=N&fieldSelector=metadata.name%3Dn1&allowWatchBookmarks=true\
                 &sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
    assert!(streams.contains(asked), "{streams:?}");
}

/// A server without streams.
#[tokio::test]
async fn all_pages_of_lists_come_and_then_it_is_synced() {
    let pages = requests_for_lists(Some(Quirk::PagesOnly)).await;
    for asked in [
        "/api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&limit=500&continue=2",
        "/api/v1/nodes?&fieldSelector=metadata.name%3Dn1&limit=500",
        "/apis/balancing.elf.io/v1beta1/localredirectpolicies?&limit=500",
        "/apis/discovery.k8s.io/v1/namespaces/own/endpointslices?&labelSelector=\
         endpointslice.kubernetes.io%2Fmanaged-by%3Dbalancing.elf.io&limit=500",
    ] {
        assert!(pages.contains(asked), "{asked}: {pages:?}");
    }
}

/// Lists everything; the requests that were made, without the random part of their time-outs.
async fn requests_for_lists(quirk: Option<Quirk>) -> BTreeSet<String> {
    let fake = Fake::start().await;
    {
        let mut world = fake.world();
        world.quirk = quirk;
        for name in ["a", "b", "c", "d", "e"] {
            world.put("pods", pod(name, "10.0.0.1"));
            world.put("nodes", cluster_scoped(name));
        }
        world.put("balancingpolicies", cluster_scoped("broken"));
    }
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced).await;
    let expected = "Pod default/a,Pod default/b,Pod default/c,Pod default/d,Pod default/e,\
                    Node a,Node b,Node c,Node d,Node e,BalancingPolicy broken";
    assert_eq!(harness.titles().join(","), expected);
    assert_eq!((harness.problems(), harness.deleted.as_slice()), (Vec::new(), [].as_slice()));
    let status = harness.status.borrow().clone();
    assert!(status.synced && status.description.starts_with("kube:http://127.0.0.1:"), "{status:?}");
    assert!(harness.stats.kinds().all(|kind| (kind.events(), kind.errors()) == (0, 0)));
    let world = fake.world();
    let plain = |request: &String| match request.split_once("timeoutSeconds=") {
        Some((before, after)) => {
            format!("{before}timeoutSeconds=N{}", after.trim_start_matches(char::is_numeric))
        }
        None => request.clone(),
    };
    world.requests.iter().map(plain).collect()
}

#[tokio::test]
async fn scopes_watch_what_their_role_needs() {
    let kinds = |scope: &Scope| {
        let targets = scope.targets("own");
        targets.iter().map(|target| target.kind.name()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        kinds(&node_scope()),
        "LocalRedirectPolicy BalancingPolicy Service Node Pod EndpointSlice TunnelFabric TunnelNode"
    );
    let external = "BalancingPolicy Service EndpointSlice TunnelFabric TunnelNode ExternalHost";
    assert_eq!(kinds(&Scope::External { name: "x1".to_owned() }), external);
    let all = "LocalRedirectPolicy BalancingPolicy TunnelFabric TunnelNode ExternalHost Service Node TunnelAddressClaim \
               EndpointSlice Pod";
    assert_eq!(kinds(&Scope::Cluster), all, "each once");
}

#[tokio::test]
async fn changes_and_deletions_follow() {
    let fake = Fake::start().await;
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced).await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    harness.until("created", |h| h.pod("a").is_some()).await;
    fake.world().put("pods", pod("a", "10.0.0.2"));
    harness.until("changed", |h| h.pod("a").unwrap().ips.contains(&"10.0.0.2".parse().unwrap())).await;
    fake.world().delete("pods", "a");
    harness.until("deleted", |h| h.pod("a").is_none()).await;
    let stats = harness.stats.kinds().find(|kind| kind.kind() == "Pod").unwrap();
    assert_eq!((stats.events(), stats.relists(), stats.errors()), (3, 0, 0));
    assert!(harness.stats.last_event().is_some());
}

#[tokio::test]
async fn an_unreadable_object_keeps_its_last_state_until_it_is_well_or_gone() {
    let fake = Fake::start().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced).await;
    let broken = json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"hostNetwork": "yes"}});
    fake.world().put("pods", broken.clone());
    harness.until("reported", |h| !h.problems().is_empty()).await;
    let problems = harness.problems();
    assert!(problems[0].starts_with("Pod default/a: spec.hostNetwork"), "{problems:?}");
    fake.world().put("nodes", cluster_scoped("mark"));
    harness.until("others go on", |h| h.titles().contains(&"Node mark".to_owned())).await;
    assert!(harness.pod("a").unwrap().ips.contains(&"10.0.0.1".parse().unwrap()));
    // A list does not take it for gone.
    fake.world().forget();
    fake.world().end_watches();
    harness.until("relisted", |h| h.stats.kinds().all(|kind| kind.relists() == 1)).await;
    assert!(harness.pod("a").is_some() && harness.deleted.is_empty() && !harness.problems().is_empty());
    fake.world().put("pods", pod("a", "10.0.0.3"));
    harness.until("well again", |h| h.problems().is_empty()).await;
    harness.until("changed", |h| h.pod("a").unwrap().ips.contains(&"10.0.0.3".parse().unwrap())).await;
    fake.world().put("pods", broken);
    harness.until("reported again", |h| !h.problems().is_empty()).await;
    fake.world().delete("pods", "a");
    harness.until("gone", |h| h.problems().is_empty() && h.pod("a").is_none()).await;
}

#[tokio::test]
async fn a_new_list_deletes_what_went_meanwhile_and_nothing_else() {
    let fake = Fake::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        fake.world().put("pods", pod(name, "10.0.0.1"));
    }
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced).await;
    {
        let mut world = fake.world();
        world.end_watches();
        world.delete("pods", "b");
        world.delete("pods", "e");
        world.put("pods", pod("f", "10.0.0.1"));
        world.forget();
    }
    harness.until("f came", |h| h.pod("f").is_some()).await;
    harness.until("b and e went", |h| h.deleted.len() >= 2).await;
    assert_eq!(harness.deleted, ["Pod default/b", "Pod default/e"]);
    assert_eq!(harness.known.len(), 4);
    assert_eq!(harness.problems(), Vec::<String>::new(), "an expired version is no problem");
}

#[tokio::test]
async fn a_server_that_comes_late_is_one_problem_until_it_comes() {
    let mut fake = Fake::away().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("reported", |h| !h.problems().is_empty()).await;
    let problems = harness.problems();
    assert!(
        problems.len() == 1
            && problems[0].starts_with("http://127.0.0.1")
            && problems[0].contains("not reachable since 20")
            && problems[0].contains("refused"),
        "{problems:?}"
    );
    assert!(!harness.synced && harness.taken == 0);
    fake.arrive().await;
    harness.until("synced", |h| h.synced).await;
    harness.until("well", |h| h.problems().is_empty()).await;
    assert!(harness.pod("a").is_some());
}

#[tokio::test]
async fn after_an_outage_it_goes_on_quietly_where_it_was() {
    let fake = Fake::start().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    fake.world().put("pods", pod("b", "10.0.0.1"));
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced && fake.world().watches() == RESOURCES.len()).await;
    {
        let mut world = fake.world();
        world.answers = RESOURCES.iter().map(|resource| (*resource, 503)).collect();
        world.end_watches();
        world.delete("pods", "b");
    }
    harness.until("reported", |h| !h.problems().is_empty()).await;
    assert!(harness.problems()[0].contains("answers with errors since 20"), "{:?}", harness.problems());
    assert_eq!(harness.problems().len(), 1, "{:?}", harness.problems());
    assert!(harness.pod("b").is_some() && harness.status.borrow().synced);
    fake.world().answers.clear();
    // No kind but pods has anything to say. That they work shows all the same.
    harness.until("well", |h| h.problems().is_empty() && h.pod("b").is_none()).await;
    assert_eq!(harness.deleted, ["Pod default/b"]);
    assert!(harness.stats.kinds().all(|kind| kind.relists() == 0));
}

#[tokio::test]
async fn kinds_that_are_missing_or_forbidden_hold_up_no_others() {
    let fake = Fake::start().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    fake.world().answers = BTreeMap::from([("localredirectpolicies", 404), ("services", 403)]);
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("pods come", |h| h.pod("a").is_some()).await;
    harness.until("reported", |h| h.problems().len() == 2).await;
    let problems = harness.problems();
    assert!(problems[0].starts_with("LocalRedirectPolicy: ") && problems[0].contains("crds"), "{problems:?}");
    assert!(problems[1].starts_with("Service: not allowed to watch services"), "{problems:?}");
    harness.until("the rest is there", |h| h.synced).await;
    let lacking = [ObjectKind::Policy(PolicyKind::LocalRedirect), ObjectKind::Service];
    assert_eq!(harness.lacking, lacking.into());
    assert!(!harness.status.borrow().synced);
    fake.world().answers.clear();
    harness.until("complete", |h| h.lacking.is_empty() && h.problems().is_empty()).await;
    assert!(harness.status.borrow().synced);
}

/// As it is before the CRDs of the fabric are installed.
#[tokio::test]
async fn a_fabric_that_is_missing_holds_up_nothing() {
    let fake = Fake::start().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    fake.world().answers = BTreeMap::from([("tunnelfabrics", 404), ("tunnelnodes", 403)]);
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("all but the fabric", |h| h.synced && h.pod("a").is_some()).await;
    assert_eq!(harness.lacking, [ObjectKind::Fabric, ObjectKind::Member].into());
    harness.until("complete for policies", |h| h.status.borrow().synced).await;
    harness.until("reported", |h| h.problems().len() == 2).await;
    fake.world().answers.clear();
    harness.until("complete", |h| h.lacking.is_empty() && h.problems().is_empty()).await;
}

#[tokio::test]
async fn changes_that_wait_for_the_consumer_become_one() {
    let fake = Fake::start().await;
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced && fake.world().watches() == RESOURCES.len()).await;
    for i in 0..1000 {
        fake.world().put("pods", pod(&format!("p{}", i % 10), &format!("10.0.{}.1", i / 10)));
    }
    let stats = Arc::clone(&harness.stats);
    let pods = stats.kinds().find(|kind| kind.kind() == "Pod").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while pods.events() < 1000 {
        assert!(Instant::now() < deadline, "{} events", pods.events());
        sleep(Duration::from_millis(5)).await;
    }
    let before = harness.taken;
    let last = "10.0.99.1".parse().unwrap();
    harness
        .until("all are new", |h| {
            (0..10).all(|i| h.pod(&format!("p{i}")).is_some_and(|p| p.ips.contains(&last)))
        })
        .await;
    assert!(harness.taken - before <= 3, "{} batches", harness.taken - before);
}

#[tokio::test]
async fn it_ends_when_told_and_when_nobody_listens() {
    let fake = Fake::start().await;
    for told in [true, false] {
        let source = KubeSource::new(&fake.connection(), &Scope::External { name: "x1".to_owned() }, "own");
        let (sender, mut batches) = mpsc::channel::<Batch>(16);
        let (status, _) = watch::channel(SourceStatus::default());
        let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(source.run(sender, status, async { drop(cancelled.await) }));
        batches.recv().await.unwrap();
        if told {
            cancel.send(()).unwrap();
            tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
        } else {
            drop(batches);
            tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
            drop(cancel);
        }
    }
}
