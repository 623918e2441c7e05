//! Every pod of a full node is hooked or left alone as the contract says, whatever happens to the agent; the kernel is the judge
//! of what `pods`, `explain`, `doctor`, metrics and readiness say.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "every_pod/fleet.rs"]
mod fleet;
#[path = "every_pod/pods.rs"]
mod pods;

use std::{
    fs,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use balancing_dataplane::{ABI, layout::Hook, links::Programs, sys};
use balancing_tests::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use self::{
    fleet::{Fleet, doctor},
    pods::{Driver, Kind, PODS, Pod, Sort},
};

/// So long nothing may be said of pods that have no cgroup yet: longer than anything else is waited for.
const QUIET_START: Duration = Duration::from_secs(6);

#[test]
fn every_pod_is_seen_whatever_happens() {
    if !require_kernel() {
        return;
    }
    let begin = Instant::now();
    let mut fleet = Fleet::new();
    let mut figures = vec![("objects", begin.elapsed())];
    let mut phase = |fleet: &Fleet, name, start: Instant| {
        fleet.wait_agreed(&[]);
        figures.push((name, start.elapsed()));
    };

    fleet.start_pods(|pod| pod.kind.before);
    let start = Instant::now();
    fleet.node.start();
    fleet.start_pods(|pod| !pod.kind.before);
    phase(&fleet, "first start", start);

    let start = Instant::now();
    fleet.node.agent().kill();
    fleet.node.start();
    phase(&fleet, "restart", start);

    let start = Instant::now();
    fleet.node.agent().kill();
    fleet.turn_over();
    fleet.node.start();
    phase(&fleet, "turnover", start);

    let start = Instant::now();
    fleet.node.agent().kill();
    assert!(fleet.node.cleanup().0.success());
    fleet.pods.iter_mut().for_each(|pod| pod.recorded = false);
    fleet.node.start();
    phase(&fleet, "cleanup", start);

    let start = Instant::now();
    let quiet = boot(&mut fleet);
    phase(&fleet, "boot", start);

    let start = Instant::now();
    two_cannot_be_hooked(&mut fleet);
    phase(&fleet, "two failing", start);

    let start = Instant::now();
    agent_hangs(&mut fleet);
    phase(&fleet, "hanging agent", start);
    println!(
        "{} pods in {:?}: {figures:.1?}, of the boot {quiet:.1?} until the last cgroups came",
        fleet.pods.len(),
        begin.elapsed()
    );
}

/// The kernel forgets everything, and the objects are older than the agent. Returns when the last cgroups came.
fn boot(fleet: &mut Fleet) -> Duration {
    let start = Instant::now();
    fleet.node.agent().kill();
    for dir in [fleet.node.bpffs(), fleet.node.run_dir()] {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.unwrap();
        }
    }
    fleet.pods.iter_mut().for_each(Pod::lose_cgroup);
    for (number, pod) in fleet.pods.iter_mut().enumerate() {
        if number % 2 == 0 {
            pod.make_cgroup(&fleet.node);
        }
    }
    let earlier = fleet.node.agent().log().len();
    fleet.node.start();
    wait_for_cgroups(fleet);
    let quiet = start.elapsed();
    let plugin = Plugin::of(&fleet.node);
    for (number, pod) in fleet.pods.iter_mut().enumerate() {
        if number % 2 == 1 {
            pod.make_cgroup(&fleet.node);
        }
        pod.add(&plugin, &fleet.netns);
    }
    fleet.wait_agreed(&[]);
    let log = fleet.node.agent().log();
    let warnings: Vec<&str> = log[earlier..].lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    quiet
}

/// A pod that has no cgroup yet is nobody's problem.
fn wait_for_cgroups(fleet: &Fleet) {
    let start = Instant::now();
    while start.elapsed() < QUIET_START {
        let view = fleet.node.view().unwrap();
        assert!(view.ready && view.problems.is_empty(), "{view:?}");
        let (status, findings) = doctor(&fleet.node);
        let wrong = |finding: &&Value| ["warning", "problem"].contains(&finding["level"].as_str().unwrap());
        assert!(status == 0 && !findings.iter().any(|finding| wrong(&finding)), "{findings:#?}");
    }
    let told = fleet.node.ctl_json(&["pods", "--all"]);
    let waiting = told.as_array().unwrap().iter().filter(|row| row["state"] == "waiting").count();
    let late = |pod: &&Pod| pod.cgroup.is_none() && pod.state() == "hooked";
    assert_eq!(waiting, fleet.pods.iter().filter(late).count(), "{told:#}");
}

/// Something foreign lies where a pin should be.
fn two_cannot_be_hooked(fleet: &mut Fleet) {
    let first = fleet.pods.len();
    let places = [("besteffort", Driver::Systemd), ("", Driver::Cgroupfs)];
    for (number, (qos, driver)) in places.into_iter().enumerate() {
        let kind = Kind { qos, driver, sort: Sort::Ordinary, before: false, plugin: false };
        let pod = Pod::new(kind, 2 * PODS + number);
        let foreign = fleet.node.layout(ABI).pods().join(pod.object.uid()).join("connect4");
        fleet.node.apply(&pod.object);
        fs::create_dir_all(foreign).unwrap();
        fleet.pods.push(pod);
    }
    fleet.start_pods(|pod| pod.cgroup.is_none());
    let names: Vec<String> = fleet.pods[first..].iter().map(Pod::name).collect();
    fleet.wait_agreed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for pod in &fleet.pods[first..] {
        fs::remove_dir(fleet.node.layout(ABI).pods().join(pod.object.uid()).join("connect4")).unwrap();
    }
}

/// Two pods lose their links while the agent cannot see it: one with its pins, one without.
fn agent_hangs(fleet: &mut Fleet) {
    let agent = Pid::from_raw(fleet.node.agent().pid().cast_signed());
    kill(agent, Signal::SIGSTOP).unwrap();
    let ours = Programs::open(&fleet.node.layout(ABI)).unwrap();
    let recorded = |pod: &&Pod| pod.recorded && pod.state() == "hooked";
    let robbed: Vec<&Pod> = fleet.pods.iter().filter(recorded).take(2).collect();
    let pins = |pod: &Pod| fleet.node.layout(ABI).pods().join(pod.object.node_uid());
    for hook in Hook::ALL {
        let link = sys::obj_get(&pins(robbed[0]).join(hook.name())).unwrap();
        sys::link_detach(link.as_fd()).unwrap();
    }
    fs::remove_dir_all(pins(robbed[1])).unwrap();
    wait_until(Duration::from_secs(20), || robbed.iter().all(|pod| pod.kernel(&ours).is_empty()));
    let start = Instant::now();
    let (status, findings) = doctor(&fleet.node);
    let took = start.elapsed();
    kill(agent, Signal::SIGCONT).unwrap();
    // Its patience is 10 s, and it asks once.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let says = |level: &str, words: &str| {
        let of_level = findings.iter().filter(|finding| finding["level"] == level);
        let said = of_level.filter(|finding| finding["message"].as_str().unwrap().contains(words)).count();
        assert_eq!(said, 1, "{level} {words}: {findings:#?}");
    };
    assert_eq!(status, 1);
    says("problem", "did not answer within 10 s");
    says("problem", "have links, and in the kernel not all hooks run: ");
    says("warning", "are not hooked; without an agent nobody knows whether they should be: ");
    let all = fleet.pods.len();
    let hooked = fleet.count("hooked", &[]) - robbed.len();
    says("ok", &format!("{hooked} of {all} local pods with a cgroup are hooked"));
}
