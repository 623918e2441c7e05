//! DEL and GC against the running kernel.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Instant,
};

use balancing_dataplane::{layout::Hook, links, records::Records};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, SocketOf, UID, attached},
    plugin::{Answer, BINARY, Call},
};

const OTHER: &str = "11111111-2222-3333-4444-555555555555";

fn valid(entries: &[(&str, &str)]) -> Value {
    entries.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect()
}

#[test]
fn e4_e5_f4_f5_links_stay_until_the_last_attachment_goes() {
    let Some(fixture) = Fixture::new("refs") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let first = Call::new(&fixture, UID);
    let second = first.clone().set("CNI_IFNAME", "net1").with("name", json!("another"));
    // The sandbox was made anew; the old one's DEL comes late, after the new one's ADD.
    let third = first.clone().set("CNI_CONTAINERID", "c2");
    for call in [&first, &second, &third] {
        call.add();
    }
    first.silent("DEL");
    second.silent("DEL");
    second.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
    third.silent("CHECK");
    third.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

#[test]
fn f3_del_needs_nothing_but_the_container() {
    let Some(fixture) = Fixture::new("bare") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    Call::new(&fixture, UID).add();
    let mut bare = Call::new(&fixture, UID).unset("CNI_ARGS").unset("CNI_NETNS").unset("CNI_PATH");
    bare.prev_result = None;
    bare.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    assert!(!fixture.pod_dir(1, UID).exists());
}

#[test]
fn f8_del_works_from_the_uid_when_records_are_lost_or_broken() {
    let Some(fixture) = Fixture::new("lost") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    fs::remove_dir_all(&fixture.run_dir).unwrap();
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    call.add();
    fs::write(fixture.run_dir.join("cni/net/c1_eth0.json"), "{").unwrap();
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    assert!(!fixture.run_dir.join("cni/net/c1_eth0.json").exists());
}

#[test]
fn f2_f6_f12_del_succeeds_when_everything_is_gone() {
    let Some(fixture) = Fixture::new("gone") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.silent("DEL");
    call.add();
    fs::remove_dir(cgroup.path()).unwrap();
    call.silent("DEL");
    assert!(!fixture.pod_dir(1, UID).exists());
    call.clone().with("bpffs", json!("/nonexistent")).silent("DEL");
    call.with("runDir", json!("/proc/self/status/run")).silent("DEL");
}

#[test]
fn f22_f23_f24_gc_removes_what_is_not_in_use_in_its_own_network() {
    let Some(fixture) = Fixture::new("gc") else { return };
    fixture.pin_programs(1);
    let [kept, gone] = [UID, OTHER].map(|uid| fixture.make_pod(uid));
    let call = Call::new(&fixture, UID);
    let other = Call::new(&fixture, OTHER).set("CNI_CONTAINERID", "c2");
    call.add();
    other.add();
    let gc = call.clone().unset("CNI_CONTAINERID").unset("CNI_NETNS").unset("CNI_IFNAME").unset("CNI_ARGS");

    // Nothing is known of what is in use, and another network's list says nothing about this one.
    gc.silent("GC");
    gc.clone().with("cni.dev/valid-attachments", json!("all")).fail("GC", 7);
    gc.clone().with("name", json!("another")).with("cni.dev/valid-attachments", json!([])).silent("GC");
    assert_eq!(call.records().len(), 2);

    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        other.add();
        gc.clone().with(key, valid(&[("c1", "eth0")])).silent("GC");
        assert_eq!((attached(&kept, Hook::Connect4), attached(&gone, Hook::Connect4)), (1, 0), "{key}");
        assert_eq!(call.records().len(), 1);
    }
    gc.with("cni.dev/valid-attachments", Value::Null).silent("GC");
    assert_eq!(attached(&kept, Hook::Connect4), 0);
    assert!(call.records().is_empty());
}

#[test]
fn f28_gc_sweeps_what_no_record_tells_of() {
    let Some(fixture) = Fixture::new("gcsweep") else { return };
    let programs = fixture.pin_programs(1);
    let live = fixture.make_pod(UID);
    let dead = fixture.make_pod(OTHER);
    links::attach(&programs, &live, &fixture.pod_dir(1, UID)).unwrap();
    links::attach(&programs, &dead, &fixture.pod_dir(1, OTHER)).unwrap();
    fs::remove_dir(dead.path()).unwrap();
    fs::rename(fixture.pod_dir(1, UID), fixture.pod_dir(1, "tmp-killed")).unwrap();
    links::attach(&programs, &live, &fixture.pod_dir(1, UID)).unwrap();
    Call::new(&fixture, UID).with("cni.dev/valid-attachments", json!([])).silent("GC");
    let left: Vec<String> =
        links::pods(&fixture.layout(1)).unwrap().keys().map(ToString::to_string).collect();
    assert_eq!(left, [UID]);
    assert!(!fixture.pod_dir(1, "tmp-killed").exists());
    assert_eq!(attached(&live, Hook::Connect4), 1);
}

#[test]
fn f25_gc_goes_on_after_what_cannot_be_removed() {
    let Some(fixture) = Fixture::new("gcerror") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    fixture.make_pod(OTHER);
    let call = Call::new(&fixture, UID).set("CNI_CONTAINERID", "c2");
    call.add();
    Call::new(&fixture, OTHER).add();
    // A directory in the place of a link cannot be unpinned.
    fs::create_dir(fixture.pod_dir(1, OTHER).join("foreign")).unwrap();
    let message = call.clone().with("cni.dev/valid-attachments", json!([])).fail("GC", 5);
    assert!(message.contains(OTHER), "{message}");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    assert!(Records::new(&fixture.run_dir).read_all().unwrap().records.is_empty());
    let leftover = fixture.pod_dir(1, &format!("tmp-{OTHER}"));
    fs::remove_dir(leftover.join("foreign")).unwrap();
    call.with("cni.dev/valid-attachments", json!([])).silent("GC");
    assert!(!leftover.exists());
}

#[test]
fn f10_del_needs_not_the_configuration_of_add() {
    let Some(fixture) = Fixture::new("configs") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let newest = Call::new(&fixture, UID).with("logLevel", json!("debug"));
    let mut oldest = Call::new(&fixture, UID).with("cniVersion", json!("0.3.0"));
    for key in ["failurePolicy", "cgroupRoot", "logLevel"] {
        oldest.config.as_object_mut().unwrap().remove(key);
    }
    let later = newest.clone().with("aKeyOfLater", json!({"a": 1})).with("failurePolicy", json!("ignore"));
    for (add, del) in [(&newest, &oldest), (&newest, &later), (&later, &newest)] {
        add.add();
        assert_eq!(attached(&cgroup, Hook::Connect4), 1);
        del.silent("DEL");
        assert_eq!(attached(&cgroup, Hook::Connect4), 0);
        assert!(newest.records().is_empty());
    }
}

#[test]
fn f11_add_and_del_of_one_pod_at_once_end_as_one_after_the_other() {
    let Some(fixture) = Fixture::new("both") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let old = Call::new(&fixture, UID);
    let new = Call::new(&fixture, UID).set("CNI_CONTAINERID", "c2");
    for _ in 0..20 {
        old.add();
        let calls = [old.spawn("DEL"), new.spawn("ADD"), old.spawn("DEL")];
        for child in calls {
            let answer = Answer::of(child);
            assert_eq!(answer.code, Some(0), "{}", answer.stdout);
        }
        new.silent("CHECK");
        assert_eq!(attached(&cgroup, Hook::Connect4), 1);
        let calls = [new.spawn("ADD"), new.spawn("DEL")];
        for child in calls {
            assert_eq!(Answer::of(child).code, Some(0));
        }
        // Whichever was last: links and record agree.
        assert_eq!(attached(&cgroup, Hook::Connect4), new.records().len());
        new.silent("DEL");
        assert_eq!(attached(&cgroup, Hook::Connect4), 0);
    }
}

#[test]
fn f26_gc_spares_an_add_that_the_runtime_did_not_know_of() {
    let Some(fixture) = Fixture::new("beside") else { return };
    fixture.pin_programs(1);
    let [fresh, stale] = [UID, OTHER].map(|uid| fixture.make_pod(uid));
    Call::new(&fixture, OTHER).set("CNI_CONTAINERID", "c2").add();
    let gc = Call::new(&fixture, UID).with("cni.dev/valid-attachments", json!([]));
    let mut running = Command::new(BINARY)
        .env_clear()
        .env("CNI_COMMAND", "GC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun when it waits for its configuration.
    let mut stdin = running.stdin.take().unwrap();
    let stat = format!("/proc/{}/stat", running.id());
    while !fs::read_to_string(&stat).unwrap().contains("(balancing-cni) S") {
        std::thread::yield_now();
    }
    let add = Call::new(&fixture, UID);
    add.add();
    stdin.write_all(gc.input().as_bytes()).unwrap();
    drop(stdin);
    let answer = Answer::of(running);
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    assert_eq!((attached(&fresh, Hook::Connect4), attached(&stale, Hook::Connect4)), (1, 0));
    add.silent("CHECK");
    // The next one knows.
    gc.silent("GC");
    assert_eq!(attached(&fresh, Hook::Connect4), 0);
}

/// As CRI-O calls at its start, where it waits for 30 s.
#[test]
fn f27_gc_of_500_stale_attachments() {
    let Some(fixture) = Fixture::new("stale") else { return };
    let programs = fixture.pin_programs(1);
    let call = Call::new(&fixture, UID);
    call.clone().with("failurePolicy", json!("ignore")).add();
    let template = fs::read_to_string(fixture.run_dir.join("cni/net/c1_eth0.json")).unwrap();
    for number in 0..500 {
        let (uid, container) = (format!("{number:032x}"), format!("s{number}"));
        let cgroup = fixture.make_pod(&uid);
        links::attach(&programs, &cgroup, &fixture.pod_dir(1, &uid)).unwrap();
        let record = template.replace(UID, &uid).replace("\"c1\"", &format!("\"{container}\""));
        fs::write(fixture.run_dir.join(format!("cni/net/{container}_eth0.json")), record).unwrap();
    }
    assert_eq!(call.records().len(), 501);
    let begin = Instant::now();
    call.clone().with("cni.dev/valid-attachments", valid(&[("c1", "eth0")])).silent("GC");
    println!("GC of 500 stale attachments: {:?}", begin.elapsed());
    assert_eq!(call.records().len(), 1);
    assert!(links::pods(&fixture.layout(1)).unwrap().is_empty());
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}

#[test]
fn f7_a_socket_that_outlives_its_cgroup_keeps_no_links() {
    let Some(fixture) = Fixture::new("socket") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    let mut socket = SocketOf::new(&cgroup, &fixture.cgroups);
    fs::remove_dir(cgroup.path()).unwrap();
    let state = links::inspect(&fixture.pod_dir(1, UID)).unwrap()[&Hook::Connect4];
    assert_ne!(state.cgroup_id, 0, "the socket keeps the removed cgroup");
    call.silent("DEL");
    assert!(!fixture.pod_dir(1, UID).exists());
    socket.stop();
}
