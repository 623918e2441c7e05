//! Link directories against the running kernel.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Hook,
    links::{self, Change, Error, LinkState, Programs},
    sys,
};

use crate::fixture::{EXCLUSIVE, Fixture, UID, attach_with_flags, attached, load};

/// What `inspect` has to say when everything is right.
fn wanted(programs: &Programs, cgroup: &CgroupDir) -> BTreeMap<Hook, LinkState> {
    Hook::ALL
        .into_iter()
        .map(|hook| (hook, LinkState { prog_id: programs.id(hook).unwrap(), cgroup_id: cgroup.id() }))
        .collect()
}

fn all(change: Change) -> BTreeMap<Hook, Change> {
    Hook::ALL.into_iter().map(|hook| (hook, change)).collect()
}

fn link_ids(fixture: &Fixture) -> Vec<u32> {
    Hook::ALL
        .iter()
        .map(|hook| sys::obj_get(&fixture.pod_dir(1, UID).join(hook.name())).unwrap())
        .map(|link| sys::link_info(link.as_fd()).unwrap().id)
        .collect()
}

#[test]
fn attached_once_however_often_it_is_asked_for() {
    let Some(fixture) = Fixture::new("attach") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    assert_eq!(links::attach(&programs, &cgroup, &dir).unwrap(), all(Change::Added));
    let ids = link_ids(&fixture);
    assert_eq!(links::attach(&programs, &cgroup, &dir).unwrap(), all(Change::Kept));
    assert_eq!(link_ids(&fixture), ids);
    assert_eq!(links::inspect(&dir).unwrap(), wanted(&programs, &cgroup));
    for hook in Hook::ALL {
        assert_eq!(attached(&cgroup, hook), 1, "{}", hook.name());
    }
    assert_eq!(fs::read_dir(fixture.layout(1).pods()).unwrap().count(), 1);
    assert!(links::remove(&dir).unwrap());
    assert!(!links::remove(&dir).unwrap());
    for hook in Hook::ALL {
        assert_eq!(attached(&cgroup, hook), 0, "{}", hook.name());
    }
}

#[test]
fn e11_new_programs_are_put_into_the_same_links() {
    let Some(fixture) = Fixture::new("update") else { return };
    let cgroup = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    links::attach(&fixture.pin_programs(1), &cgroup, &dir).unwrap();
    let ids = link_ids(&fixture);
    let newer = fixture.pin_programs(1);
    assert_eq!(links::attach(&newer, &cgroup, &dir).unwrap(), all(Change::Updated));
    assert_eq!(link_ids(&fixture), ids);
    assert_eq!(links::inspect(&dir).unwrap(), wanted(&newer, &cgroup));
}

#[test]
fn e10_links_of_a_cgroup_that_was_made_anew_are_replaced() {
    let Some(fixture) = Fixture::new("anew") else { return };
    let programs = fixture.pin_programs(1);
    let old = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    links::attach(&programs, &old, &dir).unwrap();
    fs::remove_dir(old.path()).unwrap();
    let new = fixture.make_pod(UID);
    assert_ne!(new.id(), old.id());
    assert_eq!(links::attach(&programs, &new, &dir).unwrap(), all(Change::Recreated));
    assert_eq!(links::inspect(&dir).unwrap(), wanted(&programs, &new));
    assert_eq!(attached(&new, Hook::Connect4), 1);
}

#[test]
fn only_what_is_missing_is_added() {
    let Some(fixture) = Fixture::new("missing") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    links::attach(&programs, &cgroup, &dir).unwrap();
    fs::remove_file(dir.join("connect6")).unwrap();
    assert!(!links::inspect(&dir).unwrap().contains_key(&Hook::Connect6));
    let mut expected = all(Change::Kept);
    expected.insert(Hook::Connect6, Change::Added);
    assert_eq!(links::attach(&programs, &cgroup, &dir).unwrap(), expected);
    assert_eq!(links::inspect(&dir).unwrap(), wanted(&programs, &cgroup));
}

#[test]
fn e9_what_a_killed_caller_left_is_taken_down_first() {
    let Some(fixture) = Fixture::new("killed") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    let temporary = dir.with_file_name(format!("tmp-{UID}"));
    let leave = || {
        fs::create_dir_all(&temporary).unwrap();
        let program = load("p", Hook::Recvmsg4).unwrap();
        let link = sys::link_create(program.as_fd(), cgroup.as_fd(), Hook::Recvmsg4.attach_type()).unwrap();
        sys::obj_pin(link.as_fd(), &temporary.join("recvmsg4")).unwrap();
    };
    for change in [Change::Added, Change::Kept] {
        leave();
        assert_eq!(links::attach(&programs, &cgroup, &dir).unwrap(), all(change));
        assert_eq!(attached(&cgroup, Hook::Recvmsg4), 1);
        assert!(!temporary.exists());
    }
    leave();
    assert!(links::remove(&dir).unwrap());
    leave();
    assert!(links::remove(&dir).unwrap(), "a leftover counts");
    assert_eq!(attached(&cgroup, Hook::Recvmsg4), 0);
}

#[test]
fn e12_a_foreign_object_is_named_and_left() {
    let Some(fixture) = Fixture::new("foreign") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let dir = fixture.pod_dir(1, UID);
    links::attach(&programs, &cgroup, &dir).unwrap();
    let pin = dir.join("sendmsg4");
    for another in ["a program", "a directory", "a link of another hook"] {
        fs::remove_file(&pin).or_else(|_| fs::remove_dir(&pin)).unwrap();
        match another {
            "a program" => sys::obj_pin(load("p", Hook::Sendmsg4).unwrap().as_fd(), &pin).unwrap(),
            "a directory" => fs::create_dir(&pin).unwrap(),
            _ => sys::obj_pin(sys::obj_get(&dir.join("sendmsg6")).unwrap().as_fd(), &pin).unwrap(),
        }
        let error = links::attach(&programs, &cgroup, &dir).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{another}: {error}");
        assert!(error.to_string().contains("sendmsg4"), "{another}: {error}");
        assert!(links::inspect(&dir).is_err(), "{another}");
        assert!(pin.exists(), "{another}");
    }
}

#[test]
fn e14_e20_with_64_programs_nothing_of_ours_stays() {
    let Some(fixture) = Fixture::new("full") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let program = load("p", Hook::Connect4).unwrap();
    let _others: Vec<OwnedFd> = (0..64)
        .map(|_| sys::link_create(program.as_fd(), cgroup.as_fd(), Hook::Connect4.attach_type()).unwrap())
        .collect();
    let error = links::attach(&programs, &cgroup, &fixture.pod_dir(1, UID)).unwrap_err();
    assert!(matches!(error, Error::TooMany { hook: "connect4", .. }), "{error}");
    assert_eq!(fs::read_dir(fixture.layout(1).pods()).unwrap().count(), 0);
    assert_eq!(attached(&cgroup, Hook::Recvmsg4), 0);
}

#[test]
fn e15_an_exclusive_ancestor_is_named() {
    let Some(fixture) = Fixture::new("exclusive") else { return };
    let programs = fixture.pin_programs(1);
    let ancestor = fixture.make_cgroup("kubepods");
    let cgroup = fixture.make_pod(UID);
    let program = load("p", Hook::Sendmsg6).unwrap();
    attach_with_flags(&program, &ancestor, Hook::Sendmsg6, EXCLUSIVE).unwrap();
    let error = links::attach(&programs, &cgroup, &fixture.pod_dir(1, UID)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::Exclusive { hook: "sendmsg6", .. }), "{message}");
    let holder = format!("program {} ", sys::prog_info(program.as_fd()).unwrap().id);
    assert!(message.contains(&holder), "{message}");
    assert!(message.contains(&format!("to {};", ancestor.path().display())), "{message}");
    assert_eq!(attached(&cgroup, Hook::Recvmsg4), 0);
}

#[test]
fn d18_a_removed_cgroup_is_its_own_error() {
    let Some(fixture) = Fixture::new("gone") else { return };
    let programs = fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    fs::remove_dir(cgroup.path()).unwrap();
    let error = links::attach(&programs, &cgroup, &fixture.pod_dir(1, UID)).unwrap_err();
    assert!(matches!(error, Error::CgroupGone { .. }), "{error}");
}

#[test]
fn the_newest_complete_set_of_programs_is_chosen() {
    let Some(fixture) = Fixture::new("newest") else { return };
    assert!(matches!(Programs::newest(&fixture.bpffs), Err(Error::ProgramsMissing { .. })));
    fixture.pin_programs(2);
    fixture.pin_programs(10);
    fixture.pin_programs(11);
    fs::remove_file(fixture.layout(11).program(Hook::Connect6)).unwrap();
    let (layout, programs) = Programs::newest(&fixture.bpffs).unwrap();
    assert_eq!(layout.abi(), 10);
    assert_eq!(programs.id(Hook::Connect6), Programs::open(&layout).unwrap().id(Hook::Connect6));
    let abis: Vec<u32> = links::layouts(&fixture.bpffs).unwrap().iter().map(|layout| layout.abi()).collect();
    assert_eq!(abis, [11, 10, 2]);
}
