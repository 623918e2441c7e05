//! CNI ADD as the runtime sees it: process start to exit, attaching all hooks to a pod's cgroup.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Instant,
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Layout,
    links,
    loader::{HostScope, Options, Sizes, load},
};
use balancing_tests::{Bpffs, Cgroup, TempDir, program};

use crate::{Report, median};

const RUNS: usize = 101;
const UID: &str = "11111111-2222-3333-4444-555555555555";

fn call(command: &str, config: &str) -> f64 {
    let start = Instant::now();
    let mut child = Command::new(program("balancing-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "bench")
        .env("CNI_NETNS", "")
        .env("CNI_IFNAME", "eth0")
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_UID={UID};K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench"),
        )
        .env("CNI_NETNS", format!("/proc/{}/task/{}/ns/net", std::process::id(), std::process::id()))
        .env("CNI_NETNS_OVERRIDE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the plugin starts");
    child.stdin.take().expect("a pipe").write_all(config.as_bytes()).expect("the plugin reads");
    let output = child.wait_with_output().expect("the plugin ends");
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
    elapsed
}

pub(crate) fn measure(report: &mut Report) {
    let (bpffs, cgroup, dir) = (Bpffs::new("bench-cni"), Cgroup::new("bench-cni"), TempDir::new("bench"));
    let layout = Layout::new(bpffs.path(), balancing_dataplane::ABI);
    let options =
        Options { layout: layout.clone(), sizes: Sizes::default(), host_scope: HostScope::Namespace(None) };
    let loaded = load(&options).expect("the programs load");
    loaded.pods.publish(&layout.programs()).expect("the programs are pinned");
    let pod = cgroup.child(&format!("pod{UID}"));
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"balancing-cni","bpffs":"{}","runDir":"{}","cgroupRoot":"{}","failurePolicy":"fail","runtimeConfig":{{"cgroupPath":"/pod{UID}"}},"prevResult":{{"cniVersion":"1.0.0","interfaces":[],"ips":[]}}}}"#,
        bpffs.path().display(),
        dir.path().display(),
        cgroup.path().display()
    );
    // As on a node with an agent: the first link on a hook makes the kernel patch its own code.
    let root = CgroupDir::open(cgroup.path()).expect("the cgroup is there");
    links::attach(&loaded.host, &root, &layout.host()).expect("the links attach");
    let mut bare = Vec::new();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        bare.push(call("VERSION", &config));
        times.push(call("ADD", &config));
        assert!(layout.pods().join(UID).is_dir(), "ADD attached nothing");
        call("DEL", &config);
    }
    drop(pod);
    report.tell("the plugin asked for its version, process start to exit", median(&mut bare), "ms");
    report.at_most("CNI ADD, process start to exit (median of 101)", median(&mut times), "ms", 3.0);
    let size = fs::metadata(program("balancing-cni")).expect("the plugin").len();
    report.at_most("size of the plugin", size as f64 / 1e6, "MB", 4.0);
}
