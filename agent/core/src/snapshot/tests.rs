//! Selection by index equals selection by looking at every pod.

use crate::{
    kinds::ObjectKind,
    objects::{InvalidSpec, LabelExpression, LabelOperator, LabelSelector, Object, Pod, TunnelNode},
    resolve::fixtures::{HERE, THERE, labels, mk_pod, mk_ref, selector},
    snapshot::Snapshot,
};

fn mk_pods() -> Vec<Pod> {
    let mut pods = Vec::new();
    for n in 0..24 {
        let mut pod = mk_pod(&format!("p{n:02}"), &["10.0.0.1"]);
        pod.namespace = ["default", "other", "third"][n % 3].to_owned();
        pod.node = [HERE, THERE][n % 2].to_owned();
        pod.labels = match n % 4 {
            0 => labels(&[("app", "web")]),
            1 => labels(&[("app", "web"), ("tier", "a")]),
            2 => labels(&[("app", "db"), ("tier", "a")]),
            _ => labels(&[]),
        };
        pods.push(pod);
    }
    pods
}

fn put(snapshot: &mut Snapshot, pod: &Pod) {
    let object = Object::Pod(pod.clone());
    snapshot.apply([(object.key(), Some(object))]);
}

fn selectors() -> Vec<LabelSelector> {
    let exists = LabelExpression { key: "tier".to_owned(), operator: LabelOperator::Exists };
    let by_expression = LabelSelector { labels: labels(&[]), expressions: vec![exists] };
    let pairs: [&[(&str, &str)]; 5] =
        [&[], &[("app", "web")], &[("app", "web"), ("tier", "a")], &[("app", "none")], &[("none", "x")]];
    pairs.iter().map(|pairs| selector(pairs)).chain([by_expression]).collect()
}

fn assert_same(snapshot: &Snapshot, pods: &[Pod]) {
    for selector in selectors() {
        for namespace in [None, Some("default"), Some("other"), Some("none")] {
            for node in [None, Some(HERE), Some("none")] {
                let mut expected: Vec<&Pod> = pods
                    .iter()
                    .filter(|pod| selector.matches(&pod.labels))
                    .filter(|pod| {
                        namespace.is_none_or(|n| pod.namespace == n) && node.is_none_or(|n| pod.node == n)
                    })
                    .collect();
                expected.sort_by_key(|pod| (&pod.namespace, &pod.name));
                let mut found = snapshot.select(&selector, namespace, node);
                found.sort_by_key(|pod| (&pod.namespace, &pod.name));
                assert_eq!(found, expected, "{selector:?} {namespace:?} {node:?}");
            }
        }
    }
}

#[test]
fn selection_by_index_equals_a_full_scan() {
    let mut snapshot = Snapshot::new(Some(HERE));
    let mut pods = mk_pods();
    for pod in &pods {
        put(&mut snapshot, pod);
    }
    assert_same(&snapshot, &pods);
    for pod in &mut pods[..8] {
        (pod.node, pod.labels) = (HERE.to_owned(), labels(&[("app", "db")]));
        put(&mut snapshot, pod);
    }
    assert_same(&snapshot, &pods);
    for pod in pods.drain(4..12) {
        snapshot.apply([(Object::Pod(pod).key(), None)]);
    }
    assert_same(&snapshot, &pods);
}

#[test]
fn pods_are_found_by_name_and_node() {
    let mut snapshot = Snapshot::new(Some(HERE));
    put(&mut snapshot, &mk_pod("a", &["10.0.0.1"]));
    assert!(snapshot.pod(&mk_ref("a")).is_some());
    assert_eq!(snapshot.pods_on(HERE).count(), 1);
    assert_eq!(snapshot.pods_on(THERE).count(), 0);
}

#[test]
fn a_change_of_the_fabric_is_noticed_once_and_concerns_no_policy() {
    let mut snapshot = Snapshot::new(Some(HERE));
    let member = TunnelNode {
        name: "node.n1".to_owned(),
        uid: String::new(),
        created: None,
        lacks_claim: false,
        spec: Err(InvalidSpec::default()),
    };
    let object = Object::Member(member);
    let mut seen = snapshot.fabric_revision();
    let mut is_news = |snapshot: &Snapshot| std::mem::replace(&mut seen, snapshot.fabric_revision()) != seen;
    snapshot.apply([(object.key(), Some(object.clone()))]);
    assert!(is_news(&snapshot) && snapshot.members().count() == 1);
    snapshot.apply([(object.key(), Some(object.clone()))]);
    assert!(!is_news(&snapshot), "it was known");
    snapshot.apply([(object.key(), None)]);
    assert!(is_news(&snapshot) && snapshot.member("node.n1").is_none());
    snapshot.set_lacking([ObjectKind::Member, ObjectKind::Pod].into());
    assert!(is_news(&snapshot));
    assert_eq!(*snapshot.lacking(), [ObjectKind::Pod].into());
    assert_eq!(*snapshot.fabric_lacking(), [ObjectKind::Member].into());
    assert!(snapshot.take_dirty().is_empty());
}
