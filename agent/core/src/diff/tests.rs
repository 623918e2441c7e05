//! The operations are few, ordered and enough.

use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr};

use balancing_abi::model::{Backend, Clients, Entry, FrontendKey, Layer, Protocol};

use super::{Op, diff};

fn mk_key(n: u8) -> FrontendKey {
    FrontendKey { address: IpAddr::from([169, 254, 0, n]), port: 80, protocol: Protocol::Tcp }
}

fn mk_entry(n: u8) -> Entry {
    let backend = Backend { address: IpAddr::from([10, 0, 0, n]), port: 80, weight: 1 };
    let first = Layer {
        service_id: 1,
        backends: vec![backend],
        clients: Clients::All,
        qos_limit: None,
        window: 1,
        affinity: None,
        reject: false,
        skip: BTreeSet::new(),
    };
    Entry { layers: vec![first] }
}

fn apply(tables: &mut BTreeMap<FrontendKey, Entry>, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Publish(key, entry) => drop(tables.insert(key, entry)),
            Op::Remove(key) => drop(tables.remove(&key)),
        }
    }
}

#[test]
fn equal_is_nothing_different_is_published_and_unwanted_is_removed_first() {
    let current =
        BTreeMap::from([(mk_key(1), mk_entry(1)), (mk_key(2), mk_entry(2)), (mk_key(3), mk_entry(3))]);
    let desired = BTreeMap::from([
        (mk_key(0), Some(mk_entry(0))),
        (mk_key(1), Some(mk_entry(1))),
        (mk_key(2), Some(mk_entry(9))),
        (mk_key(3), None),
        (mk_key(4), None),
    ]);
    let ops = diff(&desired, &current);
    let expected =
        [Op::Remove(mk_key(3)), Op::Publish(mk_key(0), mk_entry(0)), Op::Publish(mk_key(2), mk_entry(9))];
    assert_eq!(ops, expected);
}

#[test]
fn frontends_that_are_not_named_are_left_alone() {
    let current = BTreeMap::from([(mk_key(1), mk_entry(1))]);
    assert_eq!(diff(&BTreeMap::new(), &current), []);
}

#[test]
fn applied_twice_does_nothing_the_second_time() {
    for bits in 0_u32..4096 {
        // Two bits for each frontend: what it has, what it shall have.
        let have = |n: u8| (bits >> (2 * u32::from(n))) & 1;
        let want = |n: u8| (bits >> (2 * u32::from(n) + 1)) & 1;
        let mut tables: BTreeMap<_, _> =
            (0..6).filter(|n| have(*n) == 1).map(|n| (mk_key(n), mk_entry(n))).collect();
        let desired: BTreeMap<_, _> =
            (0..6).map(|n| (mk_key(n), (want(n) == 1).then(|| mk_entry(n / 2 * 2)))).collect();
        let ops = diff(&desired, &tables);
        apply(&mut tables, ops);
        assert_eq!(diff(&desired, &tables), [], "{bits:b}");
        assert!(desired.iter().all(|(key, entry)| tables.get(key) == entry.as_ref()), "{bits:b}");
    }
}
