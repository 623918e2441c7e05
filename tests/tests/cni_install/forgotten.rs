//! What is left of pods for which no runtime comes back.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use balancing_dataplane::{
    ABI,
    cgroup::PodUid,
    records::{self, Attachment, Record, Records, State},
};
use balancing_tests::{redirected::client_pod, *};

use crate::{host::LATE, life::kept};

/// A record of a pod, as an ADD of long ago has written it.
fn record(pod: &str, cgroup: &Path, written: u64) -> Record {
    Record {
        attachment: Attachment {
            network: "net".to_owned(),
            container_id: pod.to_owned(),
            ifname: "eth0".to_owned(),
        },
        pod_uid: PodUid::new(pod).unwrap(),
        pod_namespace: "default".to_owned(),
        pod_name: pod.to_owned(),
        cgroup: Some(cgroup.to_owned()),
        netns_cookie: None,
        namespace_excluded: None,
        written,
        state: State::Excluded("by a test".to_owned()),
    }
}

#[test]
fn f28_the_agent_removes_what_no_runtime_comes_back_for() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    kept.node.agent().kill();
    let records = Records::new(kept.node.run_dir());
    let (live, gone) =
        (kept.node.pod_cgroup(&client_pod("live")), kept.node.cgroup().path().join("kubepods/podgone"));
    let elsewhere = Path::new("/nowhere/kubepods/podelse");
    for (pod, cgroup, written) in [
        ("orphan", gone.as_path(), 1),
        ("young", &gone, records::now()),
        ("live", live.path(), 1),
        ("elsewhere", elsewhere, 1),
    ] {
        records.write(&record(pod, cgroup, written)).unwrap();
    }
    let unfinished = records.dir().join("net/half_eth0.tmp");
    let file = fs::File::create(&unfinished).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let half_made = kept.node.layout(ABI).pods().join("tmp-0b7c1d1e-0000-4000-8000-000000000001");
    fs::create_dir(&half_made).unwrap();
    kept.node.start();
    let names = || {
        let listing = records.read_all().unwrap();
        listing.records.into_iter().map(|record| record.pod_name).collect::<Vec<_>>()
    };
    eventually_within(LATE, || match names() {
        names if names == ["elsewhere", "live", "young"] && !unfinished.exists() && !half_made.exists() => {
            Ok(())
        }
        names => Err(format!("{names:?}")),
    });
}
