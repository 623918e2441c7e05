//! Laws: the order of events does not matter, and incremental equals from scratch (checked by
//! every step of the laboratory), over all permutations of few objects and random runs of many.

use balancing_abi::model::ClientId::NetnsCookie;
use balancing_abi::model::Clients;

use super::fixtures::*;
use crate::objects::{InvalidSpec, Node, Object, OnNoBackend, Pod, Policy, PortRef, RedirectMode};

/// Small, reproducible, good enough to shuffle (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for at in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(at);
        all.extend(permutations(&rest).into_iter().map(|mut tail| {
            tail.insert(0, first);
            tail
        }));
    }
    all
}

#[test]
fn policies_service_pods_and_node_in_every_order_give_the_same_plan() {
    let service = mk_service("s", &["10.96.0.1", "fd00::1"], &[("http", 80, Tcp)]);
    let objects: Vec<Object> = vec![
        service.into(),
        mk_local("l", at_service("s", &[]), web_pods(&[("", 8080, Tcp)])).into(),
        mk_local("m", at_address("10.96.0.1", &[("", 80, Tcp)]), web_pods(&[("", 1, Tcp)]))
            .created(Some(1))
            .into(),
        mk_balancing("b", at_service("s", &[]), web_pods(&[("http", 2, Tcp)]), RedirectMode::NodeProxy)
            .into(),
        mk_pod("a", &["10.0.0.1", "fd01::1"]).into(),
        mk_node(HERE, &[], &["192.168.9.1", "fd09::1"]).into(),
    ];
    let expected = Lab::of(objects.clone());
    assert_eq!(expected.entries().len(), 2);
    for order in permutations(&[0, 1, 2, 3, 4, 5]) {
        let mut lab = Lab::new();
        for &at in &order {
            lab.put(objects[at].clone());
        }
        assert_eq!(lab.entries(), expected.entries(), "{order:?}");
        for &at in order.iter().rev() {
            lab.delete(objects[at].clone());
        }
        assert!(lab.entries().is_empty() && lab.engine.verdicts().is_empty());
    }
}

fn random_pod(dice: &mut Dice) -> Pod {
    let n = dice.below(6);
    let mut pod = mk_pod(&format!("pod{n}"), &[]);
    pod.ips = ips([&["10.0.0.1"][..], &["10.0.0.2", "fd01::2"], &["fd01::3"], &[]][dice.below(4)]);
    pod.uid = format!("uid{}", dice.below(8));
    pod.namespace = dice.pick(&["default", "other"]).to_owned();
    pod.node = dice.pick(&[HERE, HERE, THERE, ""]).to_owned();
    let sets: [&[(&str, &str)]; 4] =
        [&[("app", "web")], &[("app", "web"), ("tier", "a")], &[("app", "db")], &[]];
    pod.labels = labels(dice.pick(&sets));
    (pod.ready, pod.terminating, pod.host_network) = (dice.chance(80), dice.chance(10), dice.chance(20));
    if dice.chance(50) {
        pod.ports = vec![mk_container_port(dice.pick(&["http", "x"]), 8080, Some(20080))];
    }
    pod
}

fn random_policy(dice: &mut Dice) -> Policy {
    let name = format!("p{}", dice.below(5));
    let sets: [&[(&str, u16, _)]; 4] =
        [&[("", 80, Tcp)], &[("http", 80, Tcp), ("dns", 53, Udp)], &[("http", 81, Tcp)], &[("dns", 53, Udp)]];
    let frontend = match dice.below(4) {
        0 => at_address("10.96.0.1", dice.pick(&sets)),
        1 => at_address("fd00::1", dice.pick(&sets)),
        2 => at_service(dice.pick(&["s0", "s1"]), &[]),
        _ => at_service(dice.pick(&["s0", "s1"]), dice.pick(&sets)),
    };
    let mut pods = web_pods(dice.pick(&[&[("", 8080, Tcp)][..], &[("http", 20080, Tcp), ("dns", 53, Udp)]]));
    pods.selector = selector(dice.pick(&sets_of_labels()));
    pods.namespace = dice.chance(25).then(|| "other".to_owned());
    if dice.chance(20) {
        pods.ports[0].target = Some(PortRef::Name("http".to_owned()));
    }
    let modes = [RedirectMode::PodEndpoint, RedirectMode::HostPort, RedirectMode::NodeProxy];
    let policy = match dice.below(5) {
        0..=1 => mk_local(&name, frontend, pods),
        2..=3 => mk_balancing(&name, frontend, pods, dice.pick(&modes)),
        _ => mk_addresses(&name, frontend, &["1.1.1.1", "fd0f::1"], 8080),
    };
    let mut policy = policy.with(|spec| {
        spec.enabled = dice.chance(90);
        spec.skip_redirect_from_backend = dice.chance(40);
        spec.clients = dice.pick(&[Clients::All, Clients::Pods]);
        spec.on_no_backend = dice.pick(&[None, Some(OnNoBackend::Reject), Some(OnNoBackend::Fallback)]);
        if dice.chance(20) {
            spec.node_selector = selector(&[("zone", "a")]);
        }
    });
    policy.created = dice.pick(&[None, Some(1), Some(2), Some(3)]);
    policy.service_id = dice.pick(&[None, None, Some(7), Some(8)]);
    if dice.chance(5) {
        policy.spec = Err(InvalidSpec { problems: Vec::new(), frontends: Vec::new() });
    }
    policy
}

fn sets_of_labels() -> [&'static [(&'static str, &'static str)]; 4] {
    [&[("app", "web")], &[("tier", "a")], &[("app", "web"), ("tier", "a")], &[]]
}

fn random_object(dice: &mut Dice) -> Object {
    match dice.below(10) {
        0..=3 => random_pod(dice).into(),
        4..=6 => random_policy(dice).into(),
        7..=8 => {
            let ports = [("http", 80, Tcp), ("dns", 53, Udp), ("x", 81, Tcp)];
            let from = dice.below(3);
            let addresses = [&["10.96.0.1", "fd00::1"][..], &["10.96.0.1"], &["10.96.0.2"]];
            let mut service = mk_service(dice.pick(&["s0", "s1"]), dice.pick(&addresses), &ports[from..]);
            service.headless = dice.chance(10);
            service.external_ips =
                ips(dice.pick(&[&[][..], &["192.0.2.1"], &["10.96.0.2", "192.168.0.1"], &["10.96.0.1"]]));
            service.load_balancer_ips = ips(dice.pick(&[&[][..], &["fd02::2", "192.0.2.2"]]));
            service.into()
        }
        _ => {
            let addresses = [&[][..], &["192.168.0.1"], &["192.168.0.2", "fd02::2"]];
            let node = mk_node(dice.pick(&[HERE, THERE]), dice.pick(&addresses), dice.pick(&addresses));
            Node { labels: labels(dice.pick(&[&[("zone", "a")][..], &[]])), ..node }.into()
        }
    }
}

#[test]
fn random_runs_equal_a_resolution_from_scratch_at_every_step() {
    let mut seen = 0;
    for seed in 1..=60 {
        println!("seed {seed}");
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut lab = Lab::new();
        for _ in 0..60 {
            if dice.chance(10) {
                let ids: Vec<_> =
                    (0..dice.below(3)).map(|n| NetnsCookie(u64::try_from(n).unwrap())).collect();
                lab.identify(&format!("uid{}", dice.below(8)), &ids);
                continue;
            }
            let mut batch = Vec::new();
            for _ in 0..=dice.below(3) {
                let object = random_object(&mut dice);
                let keep = dice.chance(75);
                batch.push((object.key(), keep.then_some(object)));
            }
            lab.change(batch);
            seen += lab.entries().values().filter(|entry| entry.layers.len() > 1).count();
        }
    }
    assert!(seen > 100, "the runs hardly ever made two layers: {seen}");
}
