//! What ADD and STATUS say when a pod cannot be attached.

use std::{
    fs,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use balancing_dataplane::{cgroup::PodUid, layout::Hook, links::Locks, sys};
use serde_json::json;

use crate::{
    fixture::{EXCLUSIVE, Fixture, UID, attach_with_flags, attached, load},
    plugin::Call,
};

/// ADD fails with the code under `fail` and leaves nothing; under `ignore` it hands on the result and says why.
fn refused(call: &Call, code: u32) -> String {
    let message = call.fail("ADD", code);
    assert!(call.records().is_empty(), "{message}");
    let ignoring = call.clone().with("failurePolicy", json!("ignore"));
    let answer = ignoring.add();
    assert!(answer.stderr.contains("failurePolicy: ignore"), "{}", answer.stderr);
    for record in ignoring.records() {
        assert_eq!(record["state"], "pending");
        assert!(record["reason"].as_str().unwrap().contains(&format!("(code {code})")), "{record}");
        ignoring.silent("CHECK");
    }
    ignoring.silent("DEL");
    message
}

#[test]
fn e21_e33_no_programs() {
    let Some(fixture) = Fixture::new("programs") else { return };
    fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    let message = refused(&call, 11);
    assert!(message.contains("balancing-agent"), "{message}");
    refused(&call.clone().with("bpffs", json!("/nonexistent")), 11);
    fixture.pin_programs(1);
    fs::remove_file(fixture.layout(1).program(Hook::Getpeername6)).unwrap();
    refused(&call, 11);
    assert!(call.succeed("STATUS").contains("balancing-agent"));
}

#[test]
fn c4_c10_d14_e33_no_cgroup() {
    let Some(fixture) = Fixture::new("cgroup") else { return };
    fixture.pin_programs(1);
    let call = Call::new(&fixture, UID);
    let message = refused(&call, 100);
    assert!(message.contains(UID) && message.contains("cgroups-per-qos"), "{message}");
    let unknown = call.clone().unset("CNI_ARGS");
    let message = refused(&unknown, 100);
    assert!(message.contains("K8S_POD_UID"), "{message}");
    let message = refused(&unknown.with("runtimeConfig", json!({"cgroupPath": "/nothere"})), 100);
    assert!(message.contains("cgroupPath \"/nothere\" is not a pod's cgroup"), "{message}");
    refused(&call.with("runtimeConfig", json!({"cgroupPath": "/../../etc"})), 7);
}

#[test]
fn d26_e33_no_cgroup2() {
    let Some(fixture) = Fixture::new("cgroup2") else { return };
    fixture.pin_programs(1);
    let call = Call::new(&fixture, UID).with("cgroupRoot", json!(fixture.run_dir));
    let message = refused(&call, 101);
    assert!(message.contains("is not on cgroup2"), "{message}");
    call.fail("STATUS", 50);
    assert!(call.with("failurePolicy", json!("ignore")).succeed("STATUS").contains("is not on cgroup2"));
}

#[test]
fn e12_e33_a_foreign_object_in_our_place() {
    let Some(fixture) = Fixture::new("foreign") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let pin: PathBuf = fixture.pod_dir(1, UID).join("connect4");
    fs::create_dir_all(&pin).unwrap();
    let call = Call::new(&fixture, UID);
    let message = call.fail("ADD", 5);
    assert!(message.contains(pin.to_str().unwrap()) && message.contains("remove it by hand"), "{message}");
    let ignoring = call.clone().with("failurePolicy", json!("ignore"));
    assert!(ignoring.add().stderr.contains(pin.to_str().unwrap()));
    assert_eq!(ignoring.records()[0]["state"], "pending");
    assert!(pin.is_dir());
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

#[test]
fn e14_e20_e33_too_many_programs() {
    let Some(fixture) = Fixture::new("many") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let program = load("p", Hook::Connect6).unwrap();
    let _others: Vec<_> = (0..64)
        .map(|_| sys::link_create(program.as_fd(), cgroup.as_fd(), Hook::Connect6.attach_type()).unwrap())
        .collect();
    let message = refused(&Call::new(&fixture, UID), 105);
    assert!(message.contains("connect6"), "{message}");
    assert_eq!(fs::read_dir(fixture.layout(1).pods()).unwrap().count(), 0);
}

#[test]
fn e14_e15_e33_a_program_above_that_tolerates_no_other() {
    let Some(fixture) = Fixture::new("exclusive") else { return };
    fixture.pin_programs(1);
    let ancestor = fixture.make_cgroup("kubepods");
    let cgroup = fixture.make_pod(UID);
    let theirs = load("theirs", Hook::Connect6).unwrap();
    attach_with_flags(&theirs, &ancestor, Hook::Connect6, EXCLUSIVE).unwrap();
    let message = refused(&Call::new(&fixture, UID), 102);
    let id = sys::prog_info(theirs.as_fd()).unwrap().id;
    let holder = format!("program {id} is attached exclusively to {}", ancestor.path().display());
    assert!(message.contains(&holder) && message.contains("BPF_F_ALLOW_MULTI"), "{message}");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    assert_eq!(fs::read_dir(fixture.layout(1).pods()).unwrap().count(), 0);
}

/// The agent mends a pod that starts without links, so nobody waits for whoever works with it.
#[test]
fn a_lock_that_is_held_delays_no_pod_that_may_start() {
    let Some(fixture) = Fixture::new("held") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let locks = Locks::new(&fixture.run_dir);
    let _held = locks.try_acquire(&PodUid::new(UID).unwrap()).unwrap().unwrap();
    let call = Call::new(&fixture, UID).with("failurePolicy", json!("ignore"));
    for command in ["ADD", "DEL"] {
        let start = Instant::now();
        let answer = if command == "ADD" { call.add().stderr } else { call.succeed(command) };
        assert!(answer.contains("held by another process"), "{command}: {answer}");
        if command == "ADD" {
            // CRI-O checks right after: what was ignored there cannot fail here.
            call.silent("CHECK");
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{command} took {:?}", start.elapsed());
    }
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

/// A mistake in the configuration is the node's, not the pod's.
#[test]
fn a20_e33_a_wrong_key_keeps_no_pod_from_starting_that_may_start() {
    let Some(fixture) = Fixture::new("wrong-key") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call =
        Call::new(&fixture, UID).with("excludeNamespaces", json!("default")).with("logLevle", json!("x"));
    assert!(call.fail("ADD", 7).contains("excludeNamespaces"));
    let ignoring = call.clone().with("failurePolicy", json!("ignore"));
    let said = ignoring.add().stderr;
    assert!(said.contains("excludeNamespaces has a wrong type") && said.contains("logLevle"), "{said}");
    assert_eq!(attached(&cgroup, Hook::Connect4), 1, "the key is as if it were not there");
    // Somebody has made the mistake while the pod ran: it can end.
    call.silent("CHECK");
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

/// A node whose plugin fails STATUS starts no pods, not even the agent, which has to mend it.
#[test]
fn f19_f20_what_the_agent_mends_makes_no_node_unready() {
    let Some(fixture) = Fixture::new("ready") else { return };
    let status = Call::new(&fixture, UID).unset("CNI_CONTAINERID").unset("CNI_NETNS").unset("CNI_IFNAME");
    for policy in ["fail", "ignore"] {
        let status = status.clone().with("failurePolicy", json!(policy));
        assert!(status.succeed("STATUS").contains("balancing-agent"), "{policy}");
        assert!(
            status.with("bpffs", json!("/tmp")).succeed("STATUS").contains("/tmp is not a bpffs"),
            "{policy}"
        );
    }
    fixture.pin_programs(1);
    assert!(!status.succeed("STATUS").contains("without redirection"));
    // Without a configured root the mount table tells it.
    let mut discovering = status;
    discovering.config.as_object_mut().unwrap().remove("cgroupRoot");
    discovering.silent("STATUS");
}

/// Only where STATUS fails anyway it tells whether pods that run suffer too.
#[test]
fn f21_status_tells_apart_whether_pods_have_lost_their_links() {
    let Some(fixture) = Fixture::new("degraded") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    let broken = call.clone().with("cgroupRoot", json!(fixture.run_dir));
    broken.fail("STATUS", 50);
    fs::remove_dir_all(fixture.pod_dir(1, UID)).unwrap();
    let message = broken.fail("STATUS", 51);
    assert!(
        message.contains("1 pods of network \"net\"") && message.contains("is not on cgroup2"),
        "{message}"
    );
    call.silent("STATUS");
    broken.with("failurePolicy", json!("ignore")).silent("STATUS");
    call.add();
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
}
