//! The system calls against real objects.

use std::{io::ErrorKind, os::fd::AsFd};

use balancing_dataplane::{
    layout::Hook,
    sys::{self, ObjectKind, ProgramSpec},
};

use crate::fixture::{Fixture, load};

#[test]
fn a_program_tells_what_it_is() {
    let Some(_fixture) = Fixture::new("program") else { return };
    let program = load("named_program", Hook::Recvmsg6).unwrap();
    let info = sys::prog_info(program.as_fd()).unwrap();
    assert_eq!((info.prog_type, info.name.as_str()), (sys::PROG_TYPE_CGROUP_SOCK_ADDR, "named_program"));
    assert_ne!(info.id, 0);
    assert_eq!(info.tag, sys::prog_info(load("other", Hook::Recvmsg6).unwrap().as_fd()).unwrap().tag);
    assert_eq!(sys::object_kind(program.as_fd()).unwrap(), Some(ObjectKind::Program));
    assert_eq!(sys::link_info(program.as_fd()).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(sys::map_info(program.as_fd()).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn the_verifier_explains_itself() {
    let Some(_fixture) = Fixture::new("verifier") else { return };
    let spec = ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: Hook::Connect4.attach_type(),
        name: "no_result",
        instructions: &sys::RETURN_ONE[1..],
    };
    let mut log = "stale".to_owned();
    assert_eq!(sys::prog_load(&spec, Some(&mut log)).unwrap_err().raw_os_error(), Some(libc::EACCES));
    assert!(log.contains("R0"), "{log}");
}

#[test]
fn a_link_tells_where_it_is_attached_until_the_cgroup_goes() {
    let Some(fixture) = Fixture::new("link") else { return };
    let cgroup = fixture.make_cgroup("a");
    let program = load("p", Hook::Sendmsg4).unwrap();
    let link = sys::link_create(program.as_fd(), cgroup.as_fd(), Hook::Sendmsg4.attach_type()).unwrap();
    let info = sys::link_info(link.as_fd()).unwrap();
    assert_eq!(sys::object_kind(link.as_fd()).unwrap(), Some(ObjectKind::Link));
    assert_eq!(info.cgroup_id, cgroup.id());
    assert_eq!(info.attach_type, Hook::Sendmsg4.attach_type());
    assert_eq!(info.prog_id, sys::prog_info(program.as_fd()).unwrap().id);
    std::fs::remove_dir(cgroup.path()).unwrap();
    drop(cgroup);
    // The kernel releases a removed cgroup asynchronously.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sys::link_info(link.as_fd()).unwrap().cgroup_id != 0 {
        assert!(std::time::Instant::now() < deadline, "the link still has a cgroup");
        std::thread::yield_now();
    }
    let error = sys::link_update(link.as_fd(), program.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOLINK));
}

#[test]
fn a_network_namespace_has_one_cookie() {
    let Some(_fixture) = Fixture::new("cookie") else { return };
    let cookie = sys::netns_cookie().unwrap();
    assert_ne!(cookie, 0);
    assert_eq!(sys::netns_cookie().unwrap(), cookie);
}
