//! CNI ADD as the runtime sees it: process start to exit, attaching all hooks to a pod's cgroup; beside the reference plugin that
//! comes next to it in size, and as a part of a whole chain.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Layout,
    links,
    loader::{HostScope, Options, Sizes, load},
};
use balancing_tests::{
    Bpffs, Cgroup, NetNs, TempDir,
    libcni::{Attachment, Chain, GENERATIONS},
    pinned::cgroup_path,
    program, tool,
};
use serde_json::{Value, json};

use crate::{Report, median};

const RUNS: usize = 101;
/// Pods for each of two chains: each takes some 20 ms.
const CHAINS: usize = 41;
const UID: &str = "11111111-2222-3333-4444-555555555555";

fn call(command: &str, config: &str) -> f64 {
    call_of(&program("balancing-cni"), command, config)
}

fn call_of(plugin: &Path, command: &str, config: &str) -> f64 {
    let start = Instant::now();
    let mut child = Command::new(plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "bench")
        .env("CNI_IFNAME", "eth0")
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_UID={UID};K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench"),
        )
        .env("CNI_NETNS", format!("/proc/{}/task/{}/ns/net", std::process::id(), std::process::id()))
        .env("CNI_NETNS_OVERRIDE", "1")
        .env("CNI_PATH", "/opt/cni/bin")
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
    let pod = cgroup.child(&cgroup_path(UID)[1..]);
    let entry = json!({
        "type": "balancing-cni", "bpffs": bpffs.path(), "runDir": dir.path(), "cgroupRoot": cgroup.path(),
        "failurePolicy": "fail", "capabilities": {"cgroupPath": true},
    });
    let config = configuration(&entry);
    let reference = configuration(&json!({"type": "tuning"}));
    // As on a node with an agent: the first link on a hook makes the kernel patch its own code.
    let root = CgroupDir::open(cgroup.path()).expect("the cgroup is there");
    links::attach(&loaded.host, &root, &layout.host()).expect("the links attach");
    let mut bare = Vec::new();
    let (mut times, mut others) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(call("VERSION", &config));
        others.push(call_of(&tool("tuning"), "ADD", &reference));
        times.push(call("ADD", &config));
        assert!(layout.pods().join(UID).is_dir(), "ADD attached nothing");
        call("DEL", &config);
    }
    let [without, with] = chains(&entry);
    drop(pod);
    report.tell("the plugin asked for its version, process start to exit", median(&mut bare), "ms");
    let (ours, theirs) = (median(&mut times), median(&mut others));
    report.at_most("CNI ADD, process start to exit (median of 101)", ours, "ms", 3.0);
    report.tell("CNI ADD of the reference plugin tuning, which does nothing", theirs, "ms");
    report.at_most("CNI ADD, as a multiple of that of tuning", ours / theirs, "times", 1.5);
    report.tell("ADD of a chain of bridge and host-local by libcni", without, "ms");
    report.tell("the same with the plugin", with, "ms");
    let size = fs::metadata(program("balancing-cni")).expect("the plugin").len();
    report.at_most("size of the plugin", size as f64 / 1e6, "MB", 4.0);
}

/// An entry as a runtime makes it a configuration.
fn configuration(entry: &Value) -> String {
    let mut config = entry.clone();
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "bench".into();
    config["runtimeConfig"] = json!({"cgroupPath": cgroup_path(UID)});
    config["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": [], "ips": []});
    config.to_string()
}

/// ADD of a chain without and with an entry, one after the other: the medians.
fn chains(entry: &Value) -> [f64; 2] {
    let pods = [NetNs::new(), NetNs::new()];
    let chains = [Chain::new("1.0.0", &[]), Chain::new("1.0.0", &[])];
    chains[0].write("1.0.0", &[chains[0].bridge()]);
    chains[1].write("1.0.0", &[chains[1].bridge(), entry.clone()]);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..CHAINS {
        for ((chain, netns), times) in chains.iter().zip(&pods).zip(&mut times) {
            let attachment = Attachment::new("bench", netns, UID);
            let start = Instant::now();
            chain.call(GENERATIONS[2], "ADD", &attachment).expect();
            times.push(start.elapsed().as_secs_f64() * 1e3);
            chain.call(GENERATIONS[2], "DEL", &attachment).expect();
        }
    }
    times.map(|mut times| median(&mut times))
}
