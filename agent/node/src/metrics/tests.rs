use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use balancing_dataplane::{
    model::PolicyKind,
    proxy,
    tables::{Counters, Usage},
};

use balancing_cni_install::keeper::Standing;

use super::*;
use crate::{owner::Operations, reconcile::State};
use balancing_core::failure::FailureReason;
use balancing_core::objects::PolicyRef;

const DOCS: &str = include_str!("../../../../docs/metrics.md");

fn policy(name: &str) -> PolicyRef {
    PolicyRef { kind: PolicyKind::Balancing, name: name.to_owned() }
}

/// A sample with every row that there can be.
fn full() -> Sample {
    let mut rounds = Rounds::default();
    rounds.done(Duration::from_millis(3), true);
    let counters = Counters { redirected: 7, qos_overflow: 1, no_backend: 2, skipped: 3 };
    Sample {
        abi: 1,
        ready: true,
        source: SourceSample {
            state_confirmed: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(2500)),
            state_in_force: true,
            synced: true,
            problems: 2,
            last_change: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            objects: BTreeMap::from([("Pod", 4)]),
            watches: BTreeMap::from([("Pod", WatchSample { events: 9, relists: 1, errors: 0 })]),
        },
        policies: PolicySample {
            reasons: BTreeMap::from([(("BalancingPolicy", "Applied"), 1)]),
            failed: vec![(policy("web"), FailureReason::TableFull)],
            traffic: vec![(policy("web"), counters)],
        },
        tables: TableSample {
            frontends: 1,
            failed: 1,
            usage: vec![Usage { name: "frontends", used: 1, capacity: 2, dropped: Some(0) }],
            overwritten: Some(0),
            events_lost: Some(0),
            hook_errors: vec![("connect4", 0)],
            operations: Operations { published: 5, removed: 1, failed: BTreeMap::new() },
        },
        reconcile: ReconcileSample { rounds, states: vec![State::new("tables")] },
        plugin: PluginSample::of(Some(&Standing::default())),
        links: LinkSample { host: true, pods: 2, ..LinkSample::default() },
        fabric: FabricSample {
            member: true,
            peers: 3,
            traffic: Some(proxy::Counters {
                drops: BTreeMap::from([("malformed", 4), ("not_ip", 1)]),
                ..Default::default()
            }),
            filtered: BTreeMap::from([("not_a_member".to_owned(), 5), ("not_ip".to_owned(), 2)]),
            tables: vec![proxy::Usage { table: "connections", used: 1, capacity: 2 }],
        },
    }
}

/// A controller with every row that there can be.
fn controller() -> ControllerSample {
    let writes = BTreeMap::from([("status", WriteSample { done: 1, failed: 0 })]);
    ControllerSample { leader: true, synced: true, writes }
}

/// A family with its type and the labels of its rows, as in the table of the document.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// What the text says.
fn written(text: &str) -> Families {
    let mut families = Families::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = format!("{name}{suffix}");
            let old = families.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
            assert!(old.is_none(), "{current} is there twice");
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            families.get_mut(&current).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// What the document says, and the stability of each family.
fn documented() -> (Families, BTreeSet<&'static str>) {
    let mut families = Families::new();
    let mut stability = BTreeSet::new();
    for line in DOCS.lines().filter(|line| line.starts_with("| `balancing_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, stable, _, _] = cells[..] else { panic!("{line}") };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        families.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        stability.insert(stable);
    }
    (families, stability)
}

#[test]
fn the_document_lists_exactly_what_is_written() {
    let (documented, stability) = documented();
    let mut found = written(&encode(full()).unwrap());
    found.extend(written(&encode(controller()).unwrap()));
    assert_eq!(documented, found);
    assert_eq!(stability, BTreeSet::from(["stable", "unstable"]));
}

#[test]
fn the_text_is_as_openmetrics_wants_it() {
    let text = encode(full()).unwrap();
    for line in [
        "# HELP balancing_ready Whether everything wanted is programmed and attached",
        "# TYPE balancing_redirected counter",
        "balancing_ready 1",
        "balancing_redirected_total{kind=\"BalancingPolicy\",name=\"web\"} 7",
        "balancing_qos_overflow_total{kind=\"BalancingPolicy\",name=\"web\"} 1",
        "balancing_no_backend_total{kind=\"BalancingPolicy\",name=\"web\"} 2",
        "balancing_skipped_total{kind=\"BalancingPolicy\",name=\"web\"} 3",
        "balancing_policy_failed{kind=\"BalancingPolicy\",name=\"web\",reason=\"TableFull\"} 1",
        "balancing_policies{kind=\"BalancingPolicy\",reason=\"Applied\"} 1",
        "balancing_source_last_change_timestamp_seconds 1.5",
        "balancing_stored_state_timestamp_seconds 2.5",
        "balancing_stored_state_in_force 1",
        "balancing_table_capacity{table=\"frontends\"} 2",
        "balancing_frontend_failures_total{reason=\"KernelRefused\"} 0",
        "balancing_reconcile_duration_seconds_bucket{le=\"0.005\"} 1",
        "balancing_tunnel_drops_total{reason=\"malformed\"} 4",
        "balancing_tunnel_drops_total{reason=\"not_a_member\"} 5",
        "balancing_tunnel_drops_total{reason=\"not_ip\"} 3",
        "balancing_watch_events_total{kind=\"Pod\"} 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(encode(controller()).unwrap().contains("\nbalancing_leader 1\n"));
}

#[test]
fn what_is_not_there_has_no_rows() {
    let sample = Sample { reconcile: ReconcileSample::default(), ..full() };
    let text = encode(sample).unwrap();
    let family = "balancing_reconcile_last_success";
    assert!(text.lines().all(|line| !line.starts_with(family)), "{family} has a row in\n{text}");
}
