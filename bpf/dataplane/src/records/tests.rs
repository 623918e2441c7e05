use std::collections::BTreeSet;

use super::*;

struct Run(PathBuf);

impl Run {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("balancing-records-{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn records(&self) -> Records {
        Records::new(&self.0)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn mk_record(network: &str, container: &str, ifname: &str, uid: &str) -> Record {
    Record {
        attachment: Attachment {
            network: network.to_owned(),
            container_id: container.to_owned(),
            ifname: ifname.to_owned(),
        },
        pod_uid: PodUid::new(uid).unwrap(),
        pod_namespace: "default".to_owned(),
        pod_name: "web-0".to_owned(),
        cgroup: Some(PathBuf::from("/sys/fs/cgroup/kubepods/poda")),
        netns_cookie: Some(u64::MAX),
        namespace_excluded: None,
        written: 7,
        state: State::Attached,
    }
}

#[test]
fn the_content_has_the_agreed_keys() {
    let mut record = mk_record("net", "c1", "eth0", "u");
    let expected = serde_json::json!({
        "network": "net", "containerID": "c1", "ifname": "eth0", "podUid": "u", "podNamespace": "default",
        "podName": "web-0", "cgroup": "/sys/fs/cgroup/kubepods/poda", "netnsCookie": u64::MAX, "written": 7, "state": "attached",
    });
    assert_eq!(serde_json::to_value(&record).unwrap(), expected);
    record.state = State::Pending("why".to_owned());
    record.netns_cookie = None;
    let value = serde_json::to_value(&record).unwrap();
    assert_eq!((&value["state"], &value["reason"]), (&"pending".into(), &"why".into()));
    assert_eq!(value.get("netnsCookie"), None);
}

#[test]
fn written_read_replaced_removed() {
    let run = Run::new("life");
    let records = run.records();
    let mut record = mk_record("net", "c1", "eth0", "u");
    assert_eq!(records.get(&record.attachment).unwrap(), None);
    records.write(&record).unwrap();
    assert_eq!(records.get(&record.attachment).unwrap().as_ref(), Some(&record));
    record.state = State::Excluded("namespace".to_owned());
    records.write(&record).unwrap();
    assert_eq!(records.read_all().unwrap().records, [record.clone()]);
    assert!(records.remove(&record.attachment).unwrap());
    assert!(!records.remove(&record.attachment).unwrap());
    assert!(records.read_all().unwrap().records.is_empty());
}

#[test]
fn an_interrupted_write_is_no_record_and_goes_with_it() {
    let run = Run::new("kill");
    let records = run.records();
    let record = mk_record("net", "c1", "eth0", "u");
    fs::create_dir_all(run.0.join("cni/net")).unwrap();
    fs::write(run.0.join("cni/net/c1_eth0.tmp"), "{").unwrap();
    let listing = records.read_all().unwrap();
    assert!(listing.records.is_empty() && listing.broken.is_empty());
    assert!(!records.remove(&record.attachment).unwrap());
    assert!(!run.0.join("cni/net/c1_eth0.tmp").exists());
}

#[test]
fn references_count_every_network() {
    let run = Run::new("references");
    let records = run.records();
    for record in [
        mk_record("a", "c1", "eth0", "u"),
        mk_record("a", "c1", "net1", "u"),
        mk_record("b", "c1", "eth0", "u"),
        mk_record("b", "c2", "eth0", "other"),
    ] {
        records.write(&record).unwrap();
    }
    let mut seen = Seen::default();
    let mut references = |uid: &str| records.references(&PodUid::new(uid).unwrap(), &mut seen).unwrap();
    assert_eq!((references("u"), references("other"), references("none")), (3, 1, 0));
    // What changes between two questions counts.
    let moved = mk_record("b", "c2", "eth0", "u");
    records.write(&moved).unwrap();
    assert_eq!((references("u"), references("other")), (4, 0));
    records.remove(&moved.attachment).unwrap();
    assert_eq!(references("u"), 3);
    assert_eq!(records.read_network("b").unwrap().records.len(), 1);
}

#[test]
fn a_broken_file_is_named_and_hides_no_other() {
    let run = Run::new("broken");
    let records = run.records();
    records.write(&mk_record("net", "c1", "eth0", "u")).unwrap();
    let evil = serde_json::to_string(&mk_record("net", "c2", "eth0", "u")).unwrap();
    fs::write(run.0.join("cni/net/c2_eth0.json"), evil.replace("\"u\"", "\"../../etc\"")).unwrap();
    let listing = records.read_all().unwrap();
    assert_eq!(listing.records.len(), 1);
    assert!(listing.broken[0].to_string().contains("c2_eth0.json"), "{}", listing.broken[0]);
}

#[test]
fn e26_different_names_have_different_files() {
    let long = "x".repeat(256);
    let longer = "x".repeat(257);
    let names =
        ["", "%", "a", "a_b", "a%5Fb", "A", ".a", "a.b", "..", "a/b", "é", "a b", long.as_str(), &longer];
    let files: BTreeSet<String> = names
        .iter()
        .flat_map(|container| names.map(|ifname| format!("{}_{}", encode(container), encode(ifname))))
        .collect();
    assert_eq!(files.len(), names.len() * names.len());
    for name in names {
        let file = encode(name);
        assert!(file.len() <= names::LONGEST && !file.contains('/') && !file.starts_with('.'), "{file}");
    }
}

#[test]
fn a8_e26_a_container_id_of_256_characters_is_kept() {
    let run = Run::new("long");
    let record = mk_record("net", &"c".repeat(256), "eth0", "u");
    run.records().write(&record).unwrap();
    assert_eq!(run.records().get(&record.attachment).unwrap(), Some(record));
}

#[test]
fn the_record_that_was_written_last_tells_of_a_pod() {
    let run = Run::new("newest");
    let records = run.records();
    // In the order of their names the old sandbox comes last.
    let write = |container: &str, cookie: u64, written: u64, age: u64| {
        let mut record = mk_record("net", container, "eth0", "u");
        (record.netns_cookie, record.written) = (Some(cookie), written);
        records.write(&record).unwrap();
        let file = fs::File::open(records.path(&record.attachment, RECORD)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    let cookie = || records.read_all().unwrap().newest()[&PodUid::new("u").unwrap()].netns_cookie;
    // Of an earlier plugin, which does not tell: by the files.
    write("z-old", 1, 0, 60);
    write("a-new", 2, 0, 0);
    assert_eq!(cookie(), Some(2));
    // Told: whatever the clock says.
    write("z-old", 1, 10, 0);
    write("a-new", 2, 20, 3600);
    assert_eq!(cookie(), Some(2));
    let (first, second) = (now(), now());
    assert!(0 < first && first <= second);
}
