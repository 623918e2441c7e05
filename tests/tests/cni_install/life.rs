//! The life of a node: boots, upgrades, removals, beside pods that run. The plugin is the binary that was installed, called as a
//! runtime calls it.

use std::{
    fs,
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use balancing_dataplane::{
    ABI,
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links::{self, Programs},
    sys,
};
use balancing_tests::{
    redirected::{client_pod, policy},
    *,
};
use serde_json::{Value, json};

use crate::host::{Host, Kept, LATE, LIST, OURS, said};

/// Pods that start and end while agents are replaced.
const CHURN: usize = 200;

/// Programs of all hooks at a cgroup.
fn attached(cgroup: &Cgroup) -> usize {
    let directory = CgroupDir::open(cgroup.path()).unwrap();
    let count = |hook: Hook| sys::prog_query(directory.as_fd(), hook.attach_type()).unwrap().programs.len();
    Hook::ALL.into_iter().map(count).sum()
}

#[track_caller]
fn wait_hooked(cgroup: &Cgroup) {
    eventually_within(LATE, || match attached(cgroup) {
        found if found == Hook::ALL.len() => Ok(()),
        found => Err(format!("{found} hooks at {}", cgroup.path().display())),
    });
}

/// A runtime's call of the installed plugin, with the entry that is in the list of the node.
#[derive(Clone)]
struct Installed {
    binary: PathBuf,
    config: Value,
}

impl Installed {
    fn of(host: &Host) -> Self {
        let list: Value = serde_json::from_str(&host.read("10-net.conflist")).unwrap();
        let mut config =
            list["plugins"].as_array().unwrap().iter().find(|plugin| plugin["type"] == OURS).unwrap().clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        config["prevResult"] = json!({"cniVersion": "0.3.1", "interfaces": [], "ips": []});
        Self { binary: host.path("bin").join(OURS), config }
    }

    fn call(&self, command: &str, pod: &Object, container: &str, netns: &Path) -> Output {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            pod.namespace(),
            pod.name(),
            pod.node_uid()
        );
        let mut child = Command::new(&self.binary)
            .env_clear()
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", container),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", &args),
            ])
            .env("CNI_NETNS", netns)
            .env("CNI_PATH", self.binary.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.config.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, command: &str, pod: &Object, container: &str, netns: &Path) {
        let output = self.call(command, pod, container, netns);
        assert!(output.status.success(), "{command}: {}", said(&output));
    }
}

/// An agent that keeps the plugin, and a policy.
pub(crate) fn kept() -> Kept {
    let kept = Kept::start(Host::with_list(), &[]);
    kept.node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
    kept.node.apply(&policy());
    kept.wait_chain(&["bridge"]);
    kept.node.wait_view(|view| view.ready);
    kept
}

#[test]
fn h4_after_a_boot_pods_start_at_once_and_are_hooked_later() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    let plugin = Installed::of(&kept.host);
    kept.node.reboot();
    assert!(!kept.node.run_dir().join("node.json").exists() && !kept.node.layout(ABI).base().exists());
    // The configuration is on the disk and names us; the agent's own pod starts by it, too.
    assert_eq!(kept.host.types("10-net.conflist"), ["bridge", OURS]);
    let (pod, netns) = (client_pod("early"), NetNs::new());
    let cgroup = kept.node.pod_cgroup(&pod);
    plugin.succeed("ADD", &pod, "c1", &netns.path());
    kept.node.apply(&pod);
    kept.node.start();
    wait_hooked(&cgroup);
    plugin.succeed("DEL", &pod, "c1", &netns.path());
}

#[test]
fn h5_without_an_agent_pods_are_hooked_from_what_is_pinned() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    let (plugin, netns) = (Installed::of(&kept.host), NetNs::new());
    for round in 0..3 {
        kept.node.agent().kill();
        let pod = client_pod(&format!("pod{round}"));
        let cgroup = kept.node.pod_cgroup(&pod);
        plugin.succeed("ADD", &pod, "c1", &netns.path());
        assert_eq!(attached(&cgroup), Hook::ALL.len(), "round {round}");
        kept.node.apply(&pod);
        kept.node.start();
        assert_eq!(attached(&cgroup), Hook::ALL.len(), "round {round}");
        plugin.succeed("DEL", &pod, "c1", &netns.path());
    }
}

/// Replaces the agent by another build while pods start and end. All of them must start, and those that stay are hooked.
fn replace_beside_churn(from: &'static str, to: &'static str) {
    let mut kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    kept.node.agent().terminate();
    kept.node.agent().replace(from);
    kept.node.start();
    let (plugin, netns) = (Installed::of(&kept.host), NetNs::new());
    let netns = netns.path();
    let pods: Vec<Object> = (0..CHURN).map(|number| client_pod(&format!("pod{number}"))).collect();
    let mut cgroups: Vec<Cgroup> = pods.iter().map(|pod| kept.node.pod_cgroup(pod)).collect();
    let started = AtomicUsize::new(0);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for (number, pod) in pods.iter().enumerate() {
                plugin.succeed("ADD", pod, &format!("c{number}"), &netns);
                started.fetch_add(1, Relaxed);
                if number % 4 == 3 {
                    plugin.succeed("DEL", pod, &format!("c{number}"), &netns);
                }
            }
        });
        wait_until(LATE, || started.load(Relaxed) > CHURN / 4 || churn.is_finished());
        kept.node.agent().terminate();
        kept.node.agent().replace(to);
        kept.node.start();
        churn.join().unwrap();
    });
    for number in (0..CHURN).rev() {
        if number % 4 == 3 {
            cgroups.remove(number);
        } else {
            kept.node.apply(&pods[number]);
        }
    }
    for cgroup in &cgroups {
        wait_hooked(cgroup);
    }
    kept.node.wait_view(|view| view.ready);
    assert_eq!(kept.host.types("10-net.conflist"), ["bridge", OURS]);
}

#[test]
fn h6_an_upgrade_beside_churn_fails_no_add() {
    if require_kernel() {
        replace_beside_churn("balancing-agent", "agent_next");
    }
}

#[test]
fn h6_an_add_that_is_slower_than_an_upgrade_leaves_no_older_links() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    // What a call of the plugin has opened before the upgrade, and uses after it.
    let (older, programs) = (kept.node.layout(ABI), Programs::open(&kept.node.layout(ABI)).unwrap());
    kept.node.agent().terminate();
    kept.node.agent().replace("agent_next");
    kept.node.start();
    for name in ["told", "untold"] {
        let pod = client_pod(name);
        let cgroup = kept.node.pod_cgroup(&pod);
        let attach = |programs: &Programs, layout: &Layout| {
            let dir = layout.pods().join(pod.node_uid());
            links::attach(programs, &CgroupDir::open(cgroup.path()).unwrap(), &dir).unwrap();
        };
        fs::create_dir_all(older.pods()).unwrap();
        attach(&programs, &older);
        if name == "told" {
            kept.node.apply(&pod);
        } else {
            // A second call has seen the new ones.
            let next = kept.node.layout(ABI + 1);
            attach(&Programs::open(&next).unwrap(), &next);
        }
        wait_until(LATE, || !older.pods().join(pod.node_uid()).exists());
        wait_hooked(&cgroup);
    }
    wait_until(LATE, || !older.root().exists());
}

#[test]
fn h7_a_downgrade_beside_churn_fails_no_add() {
    if require_kernel() {
        replace_beside_churn("agent_next", "balancing-agent");
    }
}

#[test]
fn h8_h12_the_end_of_the_agent_is_no_uninstall() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    let (installed, plugin, netns) =
        (kept.host.read("10-net.conflist"), Installed::of(&kept.host), NetNs::new());
    assert!(kept.node.agent().terminate().success());
    assert_eq!(kept.host.read("10-net.conflist"), installed);
    kept.node.start();
    kept.node.agent().kill();
    assert_eq!(kept.host.read("10-net.conflist"), installed);
    // Nobody comes back: pods start all the same, also when nothing is pinned any more.
    let pod = client_pod("later");
    let _cgroup = kept.node.pod_cgroup(&pod);
    plugin.succeed("ADD", &pod, "c1", &netns.path());
    plugin.succeed("DEL", &pod, "c1", &netns.path());
    assert!(kept.node.cleanup().0.success());
    plugin.succeed("ADD", &pod, "c2", &netns.path());
    plugin.succeed("DEL", &pod, "c2", &netns.path());
    // The documented end.
    kept.host.succeed("uninstall", &[]);
    assert_eq!(kept.host.read("10-net.conflist"), LIST);
    assert!(kept.host.names("bin").is_empty());
}

#[test]
fn h9_after_an_uninstall_pods_keep_their_hooks_and_leave_nothing() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    let (plugin, netns, pod) = (Installed::of(&kept.host), NetNs::new(), client_pod("pod"));
    let cgroup = kept.node.pod_cgroup(&pod);
    kept.node.apply(&pod);
    plugin.succeed("ADD", &pod, "c1", &netns.path());
    // An agent that still runs would put it back.
    kept.node.agent().terminate();
    kept.host.succeed("uninstall", &[]);
    assert!(kept.host.names("bin").is_empty());
    assert_eq!(attached(&cgroup), Hook::ALL.len());
    // containerd's DEL goes by the list of now: nobody calls us. The pod ends with an agent that does not install.
    let mut other = Agent::new(&Place::default().in_netns(kept.node.host()));
    other = other.args(["--source".to_owned(), format!("dir:{}", kept.node.objects().display())]);
    other = other.args(["--node-name", "n1", "--cgroup-root"]).args([kept.node.cgroup().path()]);
    other = other.args(["--bpffs"]).args([kept.node.bpffs()]).args(["--run-dir"]).args([kept.node.run_dir()]);
    other.start(|| kept.node.view().is_ok_and(|view| view.ready));
    assert_eq!(attached(&cgroup), Hook::ALL.len());
    cgroup.remove();
    kept.node.delete(&pod);
    eventually_within(LATE, || match links::pods(&kept.node.layout(ABI)).unwrap().len() {
        0 => Ok(()),
        count => Err(format!("{count} pods have pins")),
    });
}

#[test]
fn h10_a_binary_that_a_runtime_remembers_stays_and_answers() {
    if !require_kernel() {
        return;
    }
    let mut kept = kept();
    let (plugin, netns, pod) = (Installed::of(&kept.host), NetNs::new(), client_pod("pod"));
    let _cgroup = kept.node.pod_cgroup(&pod);
    plugin.succeed("ADD", &pod, "c1", &netns.path());
    // What libcni keeps of an ADD: CRI-O's DEL goes by that. The configuration is in base64.
    let results = kept.host.path("var/lib/cni/results");
    fs::create_dir_all(&results).unwrap();
    let list = kept.host.read("10-net.conflist");
    fs::write(
        results.join("net-c1-eth0"),
        json!({"kind": "cniCacheV1", "config": base64(&list), "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "pod"], ["K8S_POD_UID", "u"]]})
            .to_string(),
    )
    .unwrap();
    kept.node.agent().terminate();
    let told = said(&kept.host.succeed("uninstall", &["--cni-runtime=cri-o"]));
    assert!(told.contains("its binary stays") && told.contains("net-c1-eth0 (default/pod)"), "{told}");
    assert_eq!(kept.host.read("10-net.conflist"), LIST);
    plugin.succeed("DEL", &pod, "c1", &netns.path());
    plugin.succeed("DEL", &pod, "c1", &netns.path());
    // Somebody has removed it too early.
    let binary = kept.host.path("bin").join(OURS);
    fs::rename(&binary, kept.host.path("aside")).unwrap();
    let told = said(&kept.host.succeed("uninstall", &["--cni-runtime=cri-o"]));
    assert!(told.contains("has no binary of it, though something may call it"), "{told}");
    fs::rename(kept.host.path("aside"), &binary).unwrap();
    fs::remove_file(results.join("net-c1-eth0")).unwrap();
    kept.host.succeed("uninstall", &["--cni-runtime=cri-o"]);
    assert!(kept.host.names("bin").is_empty());
}

/// Base64 of a text (RFC 4648).
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |chunk: &[u8]| {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        let digit = |at: usize| char::from(DIGITS[(word >> (18 - 6 * at) & 63) as usize]);
        (0..4).map(|at| if at <= chunk.len() { digit(at) } else { '=' }).collect::<String>()
    };
    text.as_bytes().chunks(3).map(three).collect()
}

#[test]
fn h11_an_uninstall_after_the_primary_is_gone_succeeds() {
    let host = Host::with_list();
    host.succeed("install", &[]);
    // The primary's uninstall has taken its file, or the whole directory.
    fs::remove_file(host.conf("10-net.conflist")).unwrap();
    host.succeed("uninstall", &[]);
    assert!(host.names("bin").is_empty());
    let host = Host::with_list();
    host.succeed("install", &[]);
    fs::remove_dir_all(host.path("net.d")).unwrap();
    for _ in 0..2 {
        // It may be another directory than the runtime's: that nobody needs the binary is not proved.
        let told = said(&host.succeed("uninstall", &[]));
        assert!(told.contains("its binary stays") && told.contains("net.d is not there"), "{told}");
        assert_eq!(host.names("bin"), [OURS]);
    }
}

#[test]
fn h16_one_pod_with_the_default_chain_and_a_network_of_multus() {
    if !require_kernel() {
        return;
    }
    let kept = kept();
    let (default, netns, pod) = (Installed::of(&kept.host), NetNs::new(), client_pod("pod"));
    let cgroup = kept.node.pod_cgroup(&pod);
    let mut delegate = default.clone();
    delegate.config["name"] = "macvlan".into();
    default.succeed("ADD", &pod, "c1", &netns.path());
    delegate.succeed("ADD", &pod, "c1", &netns.path());
    assert_eq!(attached(&cgroup), Hook::ALL.len(), "one set of links");
    delegate.succeed("DEL", &pod, "c1", &netns.path());
    assert_eq!(attached(&cgroup), Hook::ALL.len(), "the default chain still holds them");
    default.succeed("DEL", &pod, "c1", &netns.path());
    assert_eq!(attached(&cgroup), 0);
}
