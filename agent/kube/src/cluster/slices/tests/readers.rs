//! Both sides of the protocol: agents on nodes hear of every write, and never take a mixture for complete.

use super::*;
use balancing_core::{
    manifest::read_tree,
    objects::{ObjectKey, Policy},
};

/// An agent on another node, which reads what was written.
struct Reader {
    engine: Engine,
    policy: Policy,
}

impl Reader {
    fn new() -> Self {
        let settings =
            Settings { node_name: "other".to_owned(), cluster_pods: ClusterPods::Listed, ..mk_settings() };
        let front = at_address("169.254.0.90", &[("", 80, Tcp)]);
        let policy = mk_balancing("web", front, web_pods(&[("", 80, Tcp)]), RedirectMode::PodEndpoint);
        Self { engine: Engine::new(settings), policy: Policy { uid: "u1".to_owned(), ..policy } }
    }

    fn put(&mut self, generation: i64) {
        self.policy.generation = generation;
        put(&mut self.engine, self.policy.clone());
    }

    fn hear(&mut self, op: &SliceOp) {
        let (SliceOp::Create(slice) | SliceOp::Update(slice)) = op else {
            let slice = ObjectRef { namespace: "balancing".to_owned(), name: name(op).to_owned() };
            self.engine.apply([(ObjectKey::Endpoints(slice), None)]);
            self.engine.resolve();
            return;
        };
        let tree = serde_json::to_value(wire::to_api(slice, "balancing", None)).unwrap();
        let read = read_tree(tree, "discovery.k8s.io/v1", "EndpointSlice");
        let [object] = read.objects.try_into().unwrap();
        put(&mut self.engine, object);
    }

    /// `None` = nothing is programmed.
    fn backends(&self) -> Option<BTreeSet<IpAddr>> {
        let (_, entry) = self.engine.entries().next()?;
        Some(entry.layers[0].backends.iter().map(|backend| backend.target.address).collect())
    }
}

#[test]
fn a_reader_sees_one_generation_or_the_other() {
    for seed in 1..=6 {
        let mut random = Random(seed * 0x9e37_79b9);
        let (mut server, mut reader) = (Server::default(), Reader::new());
        let mut before = None;
        for generation in 1..=12 {
            let first = random.below(3) * 100;
            let mut wanted = mk_wanted(first..first + random.below(350));
            wanted.owner.generation = Some(generation);
            let after = wanted.groups.values().flatten().map(|(_, endpoint)| endpoint.ip).collect();
            let policy_first = random.below(2) == 0;
            if policy_first {
                reader.put(generation);
            }
            // Within a step the writes may come in any order.
            for mut step in server.plan(Some(&wanted)) {
                while !step.is_empty() {
                    let op = step.swap_remove(random.below(step.len()));
                    server.write(&op);
                    reader.hear(&op);
                    let seen = reader.backends();
                    assert!(
                        seen == before || (policy_first && seen.as_ref() == Some(&after)),
                        "seed {seed} generation {generation}: a mixture"
                    );
                }
            }
            reader.put(generation);
            assert_eq!(reader.backends().as_ref(), Some(&after), "seed {seed} generation {generation}");
            before = Some(after);
        }
    }
}

#[test]
fn a_reader_takes_a_set_that_grows_or_shrinks_for_complete() {
    for seed in 1..=4 {
        let mut random = Random(seed * 0x9e37_79b9);
        let (mut server, mut reader) = (Server::default(), Reader::new());
        reader.put(1);
        for step in 0..30 {
            let first = random.below(3) * 100;
            let wanted = mk_wanted(first..first + random.below(350));
            for op in server.plan(Some(&wanted)).concat() {
                server.write(&op);
                reader.hear(&op);
                let waits = reader.engine.snapshot().wait(&balancing("web")).is_some();
                assert!(!waits || step == 0, "seed {seed} step {step}: incomplete");
            }
            let listed = wanted.groups.values().flatten().count();
            assert_eq!(reader.backends().map_or(0, |backends| backends.len()), listed);
        }
    }
}
