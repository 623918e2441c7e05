use balancing_core::{
    objects::{Object, ObjectKey, Policy, RedirectMode},
    resolve::{
        ClusterPods, Settings,
        fixtures::{
            Tcp, at_address, balancing, ip, key, local, mk_addresses, mk_balancing, mk_local, mk_pod,
            mk_settings, web_pods,
        },
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

fn mk_engine_of(lacking: &[ObjectKind], policies: &[Policy]) -> Engine {
    let mut engine = Engine::new(Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() });
    engine.set_lacking(lacking.iter().copied().collect());
    policies.iter().for_each(|policy| put(&mut engine, policy.clone()));
    engine
}

fn mk_engine() -> Engine {
    mk_engine_of(&[], &[mk_policy("u1")])
}

fn mk_start(engine: &Engine, entries: &[(FrontendKey, Entry)], names: &[(u32, PolicyRef)]) -> Kept {
    let names = names.iter().cloned().map(|(id, PolicyRef { kind, name })| (id, PolicyName { kind, name }));
    Kept::start(engine, &entries.iter().cloned().collect(), &names.collect())
}

/// The service ids of the layers, as they shall be.
fn ids(kept: &Kept, engine: &Engine, at: &FrontendKey) -> Vec<u32> {
    let entry = kept.desired(at, engine.entry(at).as_ref());
    entry.into_iter().flat_map(|entry| entry.layers).map(|layer| layer.service_id).collect()
}

const NOTHING: [u32; 0] = [];
const LOCAL: ObjectKind = ObjectKind::Policy(PolicyKind::LocalRedirect);
const BALANCING: ObjectKind = ObjectKind::Policy(PolicyKind::Balancing);

#[test]
fn what_the_kernel_has_of_a_waiting_policy_stays() {
    let mut engine = mk_engine();
    let (at, other) = (key(FRONT, 80, Tcp), key(FRONT, 81, Tcp));
    let kept = mk_start(&engine, &[(at, mk_entry(&[7])), (other, mk_entry(&[8]))], &[]);
    assert_eq!(kept.desired(&at, engine.entry(&at).as_ref()), Some(mk_entry(&[7])));
    assert_eq!(kept.desired(&other, None), None, "of another policy");
    assert_eq!(kept.desired(&key(FRONT, 82, Tcp), None), None);
    // A younger policy does not get its frontend meanwhile, one of the other kind comes first.
    put(&mut engine, mk_addresses("young", front(), &["10.9.9.9"], 80).created(Some(2000)));
    assert_eq!(kept.desired(&at, engine.entry(&at).as_ref()), Some(mk_entry(&[7])));
    let first = mk_local("l", front(), web_pods(&[("", 81, Tcp)])).service_id(9);
    put(&mut engine, mk_pod("own", &["10.0.0.9"]));
    put(&mut engine, first);
    assert_eq!(ids(&kept, &engine, &at), [9, 7]);
}

#[test]
fn it_goes_when_the_policy_is_gone_or_another_or_decided() {
    let at = key(FRONT, 80, Tcp);
    let entries = [(at, mk_entry(&[7])), (key("10.0.0.9", 1, Tcp), mk_entry(&[8]))];
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
        let mut kept = mk_start(&engine, &entries, &[]);
        assert_eq!(kept.release(&engine), []);
        change(&mut engine);
        assert_eq!(kept.release(&engine), [at], "{what}");
        assert_eq!(kept.desired(&at, engine.entry(&at).as_ref()), None, "{what}");
    }
}

#[test]
fn what_the_kernel_names_counts_more_than_the_number() {
    let engine = mk_engine();
    let at = key(FRONT, 80, Tcp);
    let kept = mk_start(&engine, &[(at, mk_entry(&[7]))], &[(7, balancing("deleted"))]);
    assert_eq!(ids(&kept, &engine, &at), NOTHING, "the number has passed to another policy");
}

#[test]
fn policies_of_a_kind_that_is_lacking_keep_what_they_have_beside_those_of_the_other() {
    let custom = mk_addresses("b", front(), &["10.9.9.9"], 80).service_id(5);
    let mut engine = mk_engine_of(&[LOCAL], &[custom]);
    let [both, unnamed, gone, alone] = [80, 81, 82, 83].map(|port| key(FRONT, port, Tcp));
    let entries =
        [(both, mk_entry(&[1])), (unnamed, mk_entry(&[2])), (gone, mk_entry(&[3])), (alone, mk_entry(&[1]))];
    let mut kept = mk_start(&engine, &entries, &[(1, local("unknown")), (3, balancing("deleted"))]);
    assert_eq!(kept.release(&engine), []);
    assert_eq!(ids(&kept, &engine, &both), [1, 5], "the LocalRedirectPolicy decides first");
    assert_eq!(ids(&kept, &engine, &unnamed), [2], "it may be that of a LocalRedirectPolicy");
    assert_eq!(
        ids(&kept, &engine, &gone),
        NOTHING,
        "all BalancingPolicies are known, and it is none of them"
    );
    assert_eq!(ids(&kept, &engine, &alone), [1]);
    // Once they are listed it shows that there is none.
    engine.set_lacking(Lacking::new());
    engine.resolve();
    assert_eq!(kept.release(&engine), [both, unnamed, alone]);
    assert_eq!(ids(&kept, &engine, &both), [5]);
    assert_eq!(ids(&kept, &engine, &alone), NOTHING);
}

#[test]
fn a_policy_that_is_listed_late_and_then_waits_keeps_what_it_has() {
    let mut engine = mk_engine_of(&[BALANCING, ObjectKind::EndpointSlice], &[]);
    let (at, other) = (key(FRONT, 80, Tcp), key(FRONT, 81, Tcp));
    let entries = [(at, mk_entry(&[7])), (other, mk_entry(&[8]))];
    let mut kept = mk_start(&engine, &entries, &[(7, balancing("b"))]);
    put(&mut engine, mk_policy("u1"));
    assert_eq!((kept.release(&engine), ids(&kept, &engine, &at)), (vec![], vec![7]), "part of a list");
    engine.set_lacking([ObjectKind::EndpointSlice].into());
    engine.resolve();
    assert_eq!((kept.release(&engine), ids(&kept, &engine, &at)), (vec![other], vec![7]));
    engine.set_lacking(Lacking::new());
    engine.resolve();
    assert_eq!((kept.release(&engine), ids(&kept, &engine, &at)), (vec![], vec![7]), "no slices yet");
    put(&mut engine, mk_policy("u1").edited(|spec| spec.enabled = false));
    assert_eq!((kept.release(&engine), ids(&kept, &engine, &at)), (vec![at], vec![]));
}

#[test]
fn where_all_policies_are_lacking_everything_stays_until_its_kind_is_listed() {
    let mut engine = mk_engine_of(&[LOCAL, BALANCING], &[]);
    let (at, one) = (key(FRONT, 80, Tcp), key(FRONT, 81, Tcp));
    let entries = [(at, mk_entry(&[1, 2])), (one, mk_entry(&[3]))];
    let mut kept = mk_start(&engine, &entries, &[]);
    assert_eq!((ids(&kept, &engine, &at), ids(&kept, &engine, &one)), (vec![1, 2], vec![3]));
    engine.set_lacking([LOCAL].into());
    put(&mut engine, mk_addresses("b", front(), &["10.9.9.9"], 80).service_id(2));
    assert_eq!(kept.release(&engine), [at]);
    assert_eq!(ids(&kept, &engine, &at), [1, 2]);
    let decided = kept.desired(&at, engine.entry(&at).as_ref()).unwrap();
    assert_eq!(decided.layers[1].backends[0].address, ip("10.9.9.9"), "as the policy says now");
    assert_eq!(ids(&kept, &engine, &one), [3]);
}
