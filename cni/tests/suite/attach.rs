//! ADD and CHECK against the running kernel.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Hook,
    links::{self, LinkState, Programs},
    sys,
};
use serde_json::json;

use crate::{
    fixture::{Fixture, OVERRIDE, UID, attach_with_flags, attached, load},
    plugin::{Answer, BINARY, Call},
};

/// Checks that the pod has exactly the links it should have.
fn assert_attached(fixture: &Fixture, programs: &Programs, cgroup: &CgroupDir, abi: u32) {
    let wanted: BTreeMap<Hook, LinkState> = Hook::ALL
        .into_iter()
        .map(|hook| (hook, LinkState { prog_id: programs.id(hook).unwrap(), cgroup_id: cgroup.id() }))
        .collect();
    assert_eq!(links::inspect(&fixture.pod_dir(abi, UID)).unwrap(), wanted);
    for hook in Hook::ALL {
        assert_eq!(attached(cgroup, hook), 1, "{}", hook.name());
    }
}

#[test]
fn a1_e1_f1_f2_f13_f18_add_check_del() {
    let Some(fixture) = Fixture::new("add") else { return };
    let programs = fixture.pin_programs(7);
    let cgroup = fixture.make_pod(UID);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let call = Call::new(&fixture, UID).with("cniVersion", json!(version));
        call.add();
        assert_attached(&fixture, &programs, &cgroup, 7);
        let record = &call.records()[0];
        assert_eq!((&record["podUid"], &record["state"]), (&json!(UID), &json!("attached")));
        assert_eq!((&record["podNamespace"], &record["podName"]), (&json!("default"), &json!("web-0")));
        assert_eq!(record["cgroup"], json!(cgroup.path()));
        if version >= "0.4.0" {
            call.silent("CHECK");
        }
        call.silent("DEL");
        call.silent("DEL");
        assert!(!fixture.pod_dir(7, UID).exists());
        assert_eq!(attached(&cgroup, Hook::Connect4), 0);
        assert!(call.records().is_empty());
        assert_eq!(fs::read_dir(fixture.run_dir.join("lock")).unwrap().count(), 0);
    }
}

#[test]
fn e2_e3_add_twice_is_add_once() {
    let Some(fixture) = Fixture::new("twice") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    assert!(call.add().stderr.contains("was attached already"));
    assert_attached(&fixture, &programs, &cgroup, 1);
    assert_eq!(call.records().len(), 1);
}

#[test]
fn e7_many_calls_for_one_pod_make_one_set_of_links() {
    let Some(fixture) = Fixture::new("parallel") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let ifnames: Vec<String> = (0..25).map(|number| format!("eth{number}")).collect();
    // Each interface twice.
    let calls: Vec<Child> = ifnames
        .iter()
        .chain(&ifnames)
        .map(|ifname| Call::new(&fixture, UID).set("CNI_IFNAME", ifname).spawn("ADD"))
        .collect();
    for child in calls {
        let answer = Answer::of(child);
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    }
    assert_attached(&fixture, &programs, &cgroup, 1);
    let call = Call::new(&fixture, UID);
    assert_eq!(call.records().len(), 25);
    let calls: Vec<Child> =
        ifnames.iter().map(|ifname| call.clone().set("CNI_IFNAME", ifname).spawn("DEL")).collect();
    for child in calls {
        assert_eq!(Answer::of(child).code, Some(0));
    }
    assert_eq!(links::pods(&fixture.layout(1)).unwrap().len(), 0);
    assert_eq!(attached(&cgroup, Hook::Connect6), 0);
}

#[test]
fn e6_many_pods_at_once() {
    let Some(fixture) = Fixture::new("pods") else { return };
    fixture.pin_programs(1);
    let uids: Vec<String> = (0..60).map(|number| format!("{number:032x}")).collect();
    let calls: Vec<Child> = uids
        .iter()
        .map(|uid| {
            fixture.make_pod(uid);
            Call::new(&fixture, uid).set("CNI_CONTAINERID", uid).spawn("ADD")
        })
        .collect();
    for child in calls {
        assert_eq!(Answer::of(child).code, Some(0));
    }
    assert_eq!(links::pods(&fixture.layout(1)).unwrap().len(), 60);
}

#[test]
fn a_call_killed_anywhere_is_completed_by_the_next() {
    let Some(fixture) = Fixture::new("kill") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    // The fastest of a few: the first reads the program from disk.
    let span = (0..5).map(|_| add_and_del(&call)).min().unwrap();
    let mut unfinished = 0;
    for step in 0..1200 {
        if step >= 120 && unfinished > 10 {
            break;
        }
        let command = if step % 2 == 0 { "ADD" } else { "DEL" };
        let mut child = call.spawn(command);
        let end = Instant::now() + span * (step / 2 % 60) / 60;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        unfinished += usize::from(Answer::of(child).code.is_none());
        if step % 3 == 0 {
            call.silent("DEL");
            assert!(links::pods(&fixture.layout(1)).unwrap().is_empty());
            // A killed process releases its descriptors, and the kernel its links, some time later.
            await_none(&cgroup);
        } else {
            call.add();
            await_one(&cgroup);
            assert_attached(&fixture, &programs, &cgroup, 1);
        }
    }
    assert!(unfinished > 10, "only {unfinished} calls were killed in time");
    call.silent("DEL");
    assert_eq!(fs::read_dir(fixture.layout(1).pods()).unwrap().count(), 0);
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

fn add_and_del(call: &Call) -> Duration {
    let begin = Instant::now();
    call.add();
    call.silent("DEL");
    begin.elapsed()
}

fn await_none(cgroup: &CgroupDir) {
    await_count(cgroup, 0);
}

fn await_one(cgroup: &CgroupDir) {
    await_count(cgroup, 1);
}

fn await_count(cgroup: &CgroupDir, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    for hook in Hook::ALL {
        while attached(cgroup, hook) != count {
            assert!(Instant::now() < deadline, "{} has {} programs", hook.name(), attached(cgroup, hook));
            std::thread::yield_now();
        }
    }
}

#[test]
fn e10_f14_links_of_a_cgroup_that_was_made_anew_are_healed() {
    let Some(fixture) = Fixture::new("heal") else { return };
    let programs = fixture.pin_programs(1);
    let old = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    fs::remove_dir(old.path()).unwrap();
    let new = fixture.make_pod(UID);
    let message = call.fail("CHECK", 106);
    assert!(Hook::ALL.iter().all(|hook| message.contains(hook.name())), "{message}");
    call.add();
    assert_attached(&fixture, &programs, &new, 1);
    call.silent("CHECK");
}

#[test]
fn e11_f14_new_programs_replace_those_of_the_links() {
    let Some(fixture) = Fixture::new("replace") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    let newer = fixture.pin_programs(1);
    let message = call.fail("CHECK", 106);
    assert!(message.contains("connect4 runs program"), "{message}");
    call.add();
    assert_attached(&fixture, &newer, &cgroup, 1);
    call.silent("CHECK");
}

#[test]
fn e32_the_newest_complete_abi_is_used_and_the_one_before_detached() {
    let Some(fixture) = Fixture::new("abi") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    fs::create_dir_all(fixture.layout(3).programs()).unwrap();
    call.silent("CHECK");
    let newer = fixture.pin_programs(2);
    // The agent has not switched the pod yet: still attached as it should be.
    call.silent("CHECK");
    call.add();
    assert!(!fixture.pod_dir(1, UID).exists());
    assert_attached(&fixture, &newer, &cgroup, 2);
    call.silent("CHECK");
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

#[test]
fn f14_check_names_the_hook_that_is_missing() {
    let Some(fixture) = Fixture::new("check") else { return };
    fixture.pin_programs(1);
    fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    fs::remove_file(fixture.pod_dir(1, UID).join("recvmsg6")).unwrap();
    for policy in ["fail", "ignore"] {
        let message = call.clone().with("failurePolicy", json!(policy)).fail("CHECK", 106);
        assert!(message.contains("recvmsg6 has no link") && !message.contains("recvmsg4"), "{message}");
    }
}

#[test]
fn c3_the_runtimes_path_needs_no_uid_and_wins_over_it() {
    let Some(fixture) = Fixture::new("path") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_cgroup(&format!("elsewhere/pod{UID}"));
    let path = json!({"cgroupPath": format!("/elsewhere/pod{UID}")});
    let call = Call::new(&fixture, UID).unset("CNI_ARGS").with("runtimeConfig", path);
    call.add();
    assert_attached(&fixture, &programs, &cgroup, 1);
    call.silent("CHECK");
    call.silent("DEL");

    let decoy = fixture.make_pod(UID);
    let call = call.set("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_UID={UID}"));
    call.add();
    assert_attached(&fixture, &programs, &cgroup, 1);
    assert_eq!(attached(&decoy, Hook::Connect4), 0);
}

#[test]
fn c11_c12_f16_an_excluded_pod_is_left_alone() {
    let Some(fixture) = Fixture::new("excluded") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let annotated = |value: &str| {
        let annotations = json!({"balancing.elf.io/redirect": value});
        Call::new(&fixture, UID)
            .with("runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": annotations}))
    };
    for call in
        [Call::new(&fixture, UID).with("excludeNamespaces", json!(["x", "default"])), annotated("disabled")]
    {
        call.add();
        assert_eq!(attached(&cgroup, Hook::Connect4), 0);
        assert_eq!(call.records()[0]["state"], "excluded");
        call.silent("CHECK");
        call.silent("DEL");
        assert!(call.records().is_empty());
    }
    let odd = annotated("no");
    assert!(odd.add().stderr.contains("which means nothing"));
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
}

#[test]
fn a21_the_pods_network_namespace_is_remembered_and_the_hosts_is_not() {
    let Some(fixture) = Fixture::new("netns") else { return };
    fixture.pin_programs(1);
    fixture.make_pod(UID);
    let (tell, told) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let namespace = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let path = fs::canonicalize("/proc/thread-self").unwrap().join("ns/net");
        tell.send((path, sys::netns_cookie().unwrap())).unwrap();
        ended.recv().unwrap_err();
    });
    let (path, cookie) = told.recv().unwrap();
    let call = Call::new(&fixture, UID);
    call.clone().set("CNI_NETNS", path.to_str().unwrap()).add();
    assert_eq!(call.records()[0]["netnsCookie"], json!(cookie));
    drop(end);
    namespace.join().unwrap();
    for other in ["/proc/self/ns/net", "dummy", "/nonexistent"] {
        for override_ in ["", "1"] {
            call.clone().set("CNI_NETNS", other).set("CNI_NETNS_OVERRIDE", override_).add();
            assert_eq!(call.records()[0].get("netnsCookie"), None, "{other}");
        }
    }
}

#[test]
fn e11_f14_links_of_another_cgroup_are_replaced() {
    let Some(fixture) = Fixture::new("another") else { return };
    let programs = fixture.pin_programs(1);
    let [cgroup, other] = [fixture.make_pod(UID), fixture.make_cgroup("other")];
    links::attach(&programs, &other, &fixture.pod_dir(1, UID)).unwrap();
    let call = Call::new(&fixture, UID);
    let message = call.fail("CHECK", 106);
    assert!(
        message.contains(&format!("connect4 is attached to cgroup {}, not {}", other.id(), cgroup.id())),
        "{message}"
    );
    call.add();
    assert_attached(&fixture, &programs, &cgroup, 1);
    assert_eq!(attached(&other, Hook::Connect4), 0);
}

#[test]
fn e10_f14_links_that_were_detached_are_made_anew() {
    let Some(fixture) = Fixture::new("detached") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    let link = sys::obj_get(&fixture.pod_dir(1, UID).join("connect6")).unwrap();
    sys::link_detach(link.as_fd()).unwrap();
    let message = call.fail("CHECK", 106);
    assert!(message.contains("connect6") && !message.contains("connect4"), "{message}");
    call.add();
    assert_attached(&fixture, &programs, &cgroup, 1);
    call.silent("CHECK");
}

#[test]
fn e16_a_program_above_that_stands_aside_is_told_once() {
    let Some(fixture) = Fixture::new("aside") else { return };
    fixture.pin_programs(1);
    let ancestor = fixture.make_cgroup("kubepods");
    let cgroup = fixture.make_pod(UID);
    let theirs = load("theirs", Hook::Sendmsg4).unwrap();
    attach_with_flags(&theirs, &ancestor, Hook::Sendmsg4, OVERRIDE).unwrap();
    let call = Call::new(&fixture, UID);
    let id = sys::prog_info(theirs.as_fd()).unwrap().id;
    let said = call.add().stderr;
    assert!(said.contains(&format!("program {id} on sendmsg4 of {}", ancestor.path().display())), "{said}");
    assert_eq!(attached(&cgroup, Hook::Sendmsg4), 1);
    assert!(!call.add().stderr.contains("does not run for it any more"));
}

#[test]
fn f15_what_later_plugins_change_is_no_business_of_check() {
    let Some(fixture) = Fixture::new("later") else { return };
    fixture.pin_programs(1);
    fixture.make_pod(UID);
    let mut call = Call::new(&fixture, UID);
    call.add();
    for result in
        [Some(r#"{"cniVersion":"1.1.0","interfaces":[],"ips":[]}"#), Some(r#"{"cniVersion":"0.4.0"}"#), None]
    {
        call.prev_result = result.map(str::to_owned);
        call.silent("CHECK");
    }
}

#[test]
fn a17_a_runtime_that_is_gone_leaves_a_pod_that_can_be_added_again() {
    let Some(fixture) = Fixture::new("pipe") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    let mut child = Command::new(BINARY)
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .envs(&call.variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(call.input().as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    call.add();
    assert_attached(&fixture, &programs, &cgroup, 1);
    assert_eq!(call.records().len(), 1);
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}
