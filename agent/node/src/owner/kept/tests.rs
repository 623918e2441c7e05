use balancing_core::{
    objects::{Object, ObjectKey, Policy, RedirectMode},
    resolve::{
        ClusterPods, Settings,
        fixtures::{Tcp, at_address, ip, key, mk_addresses, mk_balancing, mk_local, mk_settings, web_pods},
    },
};
use balancing_dataplane::model::{Backend, Clients, Layer};

use super::*;

const FRONT: &str = "169.254.0.90";

fn front() -> balancing_core::objects::FrontendSpec {
    at_address(FRONT, &[("", 80, Tcp)])
}

fn mk_policy(uid: &str) -> Policy {
    let policy = mk_balancing("b", front(), web_pods(&[("", 8080, Tcp)]), RedirectMode::PodEndpoint);
    Policy { uid: uid.to_owned(), ..policy }.service_id(7)
}

/// What an earlier agent left.
fn mk_entry(ids: &[u32]) -> Entry {
    let layer = |id: &u32| Layer {
        service_id: *id,
        backends: vec![Backend { address: ip("10.0.0.1"), port: 8080, weight: 1 }],
        clients: Clients::All,
        qos_limit: None,
        window: 0,
        affinity: None,
        reject: false,
        skip: [].into(),
    };
    Entry { layers: ids.iter().map(layer).collect() }
}

fn put(engine: &mut Engine, object: impl Into<Object>) {
    let object = object.into();
    engine.apply([(object.key(), Some(object))]);
    engine.resolve();
}

fn mk_engine() -> Engine {
    let mut engine = Engine::new(Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() });
    put(&mut engine, mk_policy("u1"));
    engine
}

#[test]
fn what_the_kernel_has_of_a_waiting_policy_stays() {
    let mut engine = mk_engine();
    let at = key(FRONT, 80, Tcp);
    let kept = Kept::start(&engine);
    assert_eq!(kept.desired(engine.entry(&at).as_ref(), Some(&mk_entry(&[7]))), Some(mk_entry(&[7])));
    assert_eq!(kept.desired(engine.entry(&at).as_ref(), Some(&mk_entry(&[8]))), None, "of another policy");
    assert_eq!(kept.desired(engine.entry(&at).as_ref(), None), None);
    // A younger policy does not get its frontend meanwhile, one of the other kind comes first.
    put(&mut engine, mk_addresses("young", front(), &["10.9.9.9"], 80).created(Some(2000)));
    assert_eq!(kept.desired(engine.entry(&at).as_ref(), Some(&mk_entry(&[7]))), Some(mk_entry(&[7])));
    let first = mk_local("l", front(), web_pods(&[("", 81, Tcp)])).service_id(9);
    put(&mut engine, balancing_core::resolve::fixtures::mk_pod("own", &["10.0.0.9"]));
    put(&mut engine, first);
    let desired = kept.desired(engine.entry(&at).as_ref(), Some(&mk_entry(&[7]))).unwrap();
    assert_eq!(desired.layers.iter().map(|layer| layer.service_id).collect::<Vec<_>>(), [9, 7]);
}

#[test]
fn it_goes_when_the_policy_is_gone_or_another_or_decided() {
    let at = key(FRONT, 80, Tcp);
    let entries = BTreeMap::from([(at, mk_entry(&[7])), (key("10.0.0.9", 1, Tcp), mk_entry(&[8]))]);
    type Change = fn(&mut Engine);
    let changes: [(&str, Change); 3] = [
        ("gone", |engine| {
            engine.apply([(ObjectKey::Policy(mk_policy("u1").id), None)]);
            engine.resolve();
        }),
        ("another", |engine| put(engine, mk_policy("u2"))),
        ("decided", |engine| put(engine, mk_policy("u1").with(|spec| spec.enabled = false))),
    ];
    for (what, change) in changes {
        let mut engine = mk_engine();
        let mut kept = Kept::start(&engine);
        assert_eq!(kept.release(&engine, &entries), []);
        change(&mut engine);
        assert_eq!(kept.release(&engine, &entries), [at], "{what}");
        assert_eq!(kept.desired(engine.entry(&at).as_ref(), Some(&mk_entry(&[7]))), None, "{what}");
    }
}
