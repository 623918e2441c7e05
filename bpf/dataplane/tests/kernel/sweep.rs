//! Sweeping what nobody comes back for.

use std::{fs, os::fd::AsFd};

use balancing_dataplane::{
    cgroup::{self, PodUid},
    layout::Hook,
    links::{self, Locks},
    sys,
};

use crate::fixture::{Fixture, SocketOf, UID, attached, load};

#[test]
fn f28_an_unfinished_directory_goes_unless_its_pod_is_locked() {
    let Some(fixture) = Fixture::new("unfinished") else { return };
    let locks = Locks::new(&fixture.run_dir);
    let cgroup = fixture.make_pod(UID);
    let temporary = fixture.pod_dir(1, &format!("tmp-{UID}"));
    fs::create_dir_all(&temporary).unwrap();
    let program = load("p", Hook::Connect4).unwrap();
    let link = sys::link_create(program.as_fd(), cgroup.as_fd(), Hook::Connect4.attach_type()).unwrap();
    sys::obj_pin(link.as_fd(), &temporary.join("connect4")).unwrap();
    drop(link);

    let held = locks.try_acquire(&PodUid::new(UID).unwrap()).unwrap().unwrap();
    assert!(links::sweep(&fixture.layout(1), &fixture.cgroups, &locks).unwrap().unfinished.is_empty());
    assert!(temporary.exists());
    drop(held);
    let swept = links::sweep(&fixture.layout(1), &fixture.cgroups, &locks).unwrap();
    assert_eq!(swept.unfinished, std::slice::from_ref(&temporary));
    assert!(swept.failed.is_empty() && swept.pods.is_empty());
    assert!(!temporary.exists());
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

#[test]
fn f7_f28_pods_whose_cgroup_is_gone_go_and_others_stay() {
    let Some(fixture) = Fixture::new("sweep") else { return };
    let locks = Locks::new(&fixture.run_dir);
    let programs = fixture.pin_programs(1);
    let live = fixture.make_pod("live");
    links::attach(&programs, &live, &fixture.pod_dir(1, "live")).unwrap();
    let gone = fixture.make_pod("gone");
    links::attach(&programs, &gone, &fixture.pod_dir(1, "gone")).unwrap();
    let held = fixture.make_pod("held");
    links::attach(&programs, &held, &fixture.pod_dir(1, "held")).unwrap();
    let mut socket = SocketOf::new(&held, &fixture.cgroups);

    assert!(links::sweep(&fixture.layout(1), &fixture.cgroups, &locks).unwrap().pods.is_empty());
    for cgroup in [gone, held] {
        fs::remove_dir(cgroup.path()).unwrap();
    }
    let states = links::inspect(&fixture.pod_dir(1, "held")).unwrap();
    assert_ne!(states[&Hook::Connect4].cgroup_id, 0, "a socket keeps the removed cgroup");
    let swept = links::sweep(&fixture.layout(1), &fixture.cgroups, &locks).unwrap();
    assert_eq!(swept.pods.iter().map(PodUid::as_str).collect::<Vec<_>>(), ["gone", "held"]);
    assert!(swept.failed.is_empty(), "{:?}", swept.failed);
    assert_eq!(links::pods(&fixture.layout(1)).unwrap().len(), 1);
    assert_eq!(attached(&live, Hook::Connect4), 1);
    assert_eq!(fs::read_dir(fixture.run_dir.join("lock")).unwrap().count(), 0);
    socket.stop();
}

#[test]
fn a_pod_outside_the_sweepers_view_is_not_gone() {
    let Some(fixture) = Fixture::new("view") else { return };
    let locks = Locks::new(&fixture.run_dir);
    let programs = fixture.pin_programs(1);
    let pod = fixture.make_pod(UID);
    links::attach(&programs, &pod, &fixture.pod_dir(1, UID)).unwrap();
    // As an agent in a private cgroup namespace, or with another --cgroup-root, sees the hierarchy.
    let elsewhere = fixture.make_cgroup("elsewhere");
    let sweep = || links::sweep(&fixture.layout(1), elsewhere.path(), &locks).unwrap();
    assert!(sweep().pods.is_empty());
    assert_eq!(attached(&pod, Hook::Connect4), 1);
    let found = cgroup::by_id(elsewhere.path(), pod.id()).unwrap().unwrap();
    assert_eq!((found.id(), found.path()), (pod.id(), pod.path()));
    let id = pod.id();
    fs::remove_dir(pod.path()).unwrap();
    assert!(cgroup::by_id(elsewhere.path(), id).unwrap().is_none());
    assert_eq!(sweep().pods.len(), 1);
}
