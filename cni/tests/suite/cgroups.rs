//! Pods' cgroups where kubelets put them, and where else they may be.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
};

use balancing_dataplane::{cgroup::CgroupDir, layout::Hook};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, UID, attached, remove_cgroup},
    plugin::{Answer, Call, with_capabilities},
};

/// As static pods have it: the hash of their manifest.
const STATIC: &str = "9f86d081884c7d659a2feaa0c55ad015";

/// The directories of a pod: driver x class, below a root of the kubelet.
fn places(root: &str, uid: &str) -> Vec<String> {
    let underscored = uid.replace('-', "_");
    let mut places = Vec::new();
    for class in ["", "burstable", "besteffort"] {
        let parts: Vec<&str> =
            [root, "kubepods", class].into_iter().filter(|part| !part.is_empty()).collect();
        places.push(format!("{}/pod{uid}", parts.join("/")));
        let slices: Vec<String> =
            (1..=parts.len()).map(|end| format!("{}.slice", parts[..end].join("-"))).collect();
        places.push(format!("{}/{}-pod{underscored}.slice", slices.join("/"), parts.join("-")));
    }
    places
}

/// ADD, CHECK and DEL find this directory by the UID alone.
fn found(fixture: &Fixture, uid: &str, place: &str) -> CgroupDir {
    let cgroup = fixture.make_cgroup(place);
    let call = Call::new(fixture, uid);
    call.add();
    assert_eq!(attached(&cgroup, Hook::Connect4), 1, "{place}");
    assert_eq!(call.records()[0]["cgroup"], json!(cgroup.path()));
    call.silent("CHECK");
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0, "{place}");
    cgroup
}

#[test]
fn d1_d12_every_driver_and_class_with_and_without_the_root_of_kind() {
    let Some(fixture) = Fixture::new("places") else { return };
    fixture.pin_programs(1);
    let all: Vec<String> = ["", "kubelet"].iter().flat_map(|root| places(root, UID)).collect();
    assert_eq!(all.len(), 12);
    for place in all {
        remove_cgroup(found(&fixture, UID, &place).path());
    }
}

#[test]
fn d13_a_root_of_three_levels() {
    let Some(fixture) = Fixture::new("custom") else { return };
    fixture.pin_programs(1);
    for place in places("a/b/c", UID) {
        // A slice's name tells its parents.
        let place = place.replace("a/b/c.slice", "a.slice/a-b.slice/a-b-c.slice").replace("a/b/c-", "a-b-c-");
        remove_cgroup(found(&fixture, UID, &place).path());
    }
}

#[test]
fn d15_static_pods_of_both_drivers() {
    let Some(fixture) = Fixture::new("static") else { return };
    fixture.pin_programs(1);
    for place in places("", STATIC) {
        remove_cgroup(found(&fixture, STATIC, &place).path());
    }
}

#[test]
fn d16_the_pod_is_chosen_and_none_of_its_containers() {
    let Some(fixture) = Fixture::new("children") else { return };
    fixture.pin_programs(1);
    let id = "4f".repeat(32);
    for pod in
        [format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_")), format!("x/y/pod{UID}")]
    {
        let children = [
            format!("cri-containerd-{id}.scope"),
            format!("crio-{id}.scope"),
            format!("crio-conmon-{id}.scope"),
            format!("docker-{id}.scope"),
            format!("pod{UID}"),
            id.clone(),
        ];
        let children = children.map(|child| fixture.make_cgroup(&format!("{pod}/{child}")));
        let call = Call::new(&fixture, UID);
        call.add();
        assert_eq!(attached(&fixture.make_cgroup(&pod), Hook::Connect4), 1);
        for child in &children {
            assert_eq!(attached(child, Hook::Connect4), 0, "{}", child.path().display());
        }
        call.silent("DEL");
        remove_cgroup(&fixture.cgroups.join(&pod));
    }
}

#[test]
fn d18_a_cgroup_that_comes_and_goes_is_tried_again_or_later() {
    let Some(fixture) = Fixture::new("flicker") else { return };
    fixture.pin_programs(1);
    let path = fixture.make_pod(UID).path().to_owned();
    let call = Call::new(&fixture, UID);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(fs::remove_dir(&path));
                drop(fs::create_dir(&path));
            }
        });
        let answers: Vec<Answer> = (0..100).map(|_| call.run("ADD")).collect();
        over.store(true, Ordering::Relaxed);
        for answer in answers.iter().filter(|answer| answer.code != Some(0)) {
            let error: Value = serde_json::from_str(&answer.stdout).unwrap();
            assert!(error["code"] == 11 || error["code"] == 100, "{}", answer.stdout);
        }
    });
    drop(fs::create_dir(&path));
    call.add();
    assert_eq!(attached(&CgroupDir::open(&path).unwrap(), Hook::Connect4), 1);
    call.silent("CHECK");
}

#[test]
fn d19_two_cgroups_of_one_pod_are_named_and_the_runtimes_path_tells_them_apart() {
    let Some(fixture) = Fixture::new("leftover") else { return };
    fixture.pin_programs(1);
    let [left, live] =
        ["kubepods", "kubepods/burstable"].map(|place| fixture.make_cgroup(&format!("{place}/pod{UID}")));
    let call = Call::new(&fixture, UID);
    let message = call.fail("ADD", 100);
    for cgroup in [&left, &live] {
        assert!(message.contains(cgroup.path().to_str().unwrap()), "{message}");
    }
    assert!(message.contains("cgroupPath"), "{message}");
    call.with("runtimeConfig", json!({"cgroupPath": format!("/kubepods/burstable/pod{UID}")})).add();
    assert_eq!((attached(&left, Hook::Connect4), attached(&live, Hook::Connect4)), (0, 1));
}

#[test]
fn d20_a_longer_or_shorter_name_is_another_pod() {
    let Some(fixture) = Fixture::new("prefix") else { return };
    fixture.pin_programs(1);
    let underscored = UID.replace('-', "_");
    for name in [
        format!("pod{UID}0"),
        format!("xpod{UID}"),
        format!("kubepods-pod{underscored}0.slice"),
        format!("pod{}", &UID[..35]),
    ] {
        fixture.make_cgroup(&format!("kubepods/{name}"));
    }
    assert!(Call::new(&fixture, UID).fail("ADD", 100).contains(UID));
}

#[test]
fn d27_what_cannot_be_read_ends_no_search_and_is_counted() {
    let Some(fixture) = Fixture::new("closed") else { return };
    fixture.pin_programs(1);
    let closed = fixture.make_cgroup("a/closed");
    fixture.make_cgroup("a/closed/below");
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let call = Call::new(&fixture, UID);
    let add = || with_capabilities(&fixture, &call, "ADD", "-all,+bpf,+net_admin,+sys_admin");
    let message = add().error(100);
    assert!(message.contains(", 1 unreadable)"), "{message}");
    let cgroup = fixture.make_cgroup(&format!("a/open/pod{UID}"));
    assert_eq!(add().code, Some(0));
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
}

#[test]
fn d28_frozen_and_threaded_cgroups_are_as_good() {
    let Some(fixture) = Fixture::new("frozen") else { return };
    fixture.pin_programs(1);
    for (file, value) in [("cgroup.freeze", "1"), ("cgroup.type", "threaded")] {
        let cgroup = fixture.make_pod(UID);
        fs::write(cgroup.path().join(file), value).unwrap();
        let call = Call::new(&fixture, UID);
        call.add();
        assert_eq!(attached(&cgroup, Hook::Connect4), 1, "{file}");
        call.silent("DEL");
        remove_cgroup(cgroup.path());
    }
}
