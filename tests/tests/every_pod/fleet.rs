//! A node full of pods, and the judges: the kernel, and whoever tells of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use balancing_dataplane::{ABI, layout::Hook, links::Programs};
use balancing_tests::*;
use serde_json::{Value, json};

use crate::pods::{FRONTEND, Kind, Pod, QUIET};

/// Of one phase.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pods that end, and pods that come, while the agent is down.
const TURNOVER: usize = 20;

/// A node with its pods.
pub(crate) struct Fleet {
    pub(crate) node: Node,
    pub(crate) pods: Vec<Pod>,
    /// Of pods that nothing connects from.
    pub(crate) netns: NetNs,
    _servers: [EchoServer; 2],
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let node = Node::with("every-pod", &["--exclude-namespaces", QUIET]);
        let servers = [node.serve("original", &[FRONTEND]), node.serve("local", &["10.1.0.1:80"])];
        let mut connecting = BTreeSet::new();
        let pods = Kind::table().into_iter().enumerate().map(|(number, kind)| {
            let mut pod = Pod::new(kind, number);
            if kind.may_connect() && connecting.insert((kind.sort, kind.plugin)) {
                pod.sandbox = Some(node.sandbox(&pod.object));
            }
            pod
        });
        let mut pods: Vec<Pod> = pods.collect();
        let backend = pods[0].object.clone().with("/metadata/labels/app", "local");
        pods[0].object = backend.with("/status/podIPs", json!([{"ip": "10.1.0.1"}]));
        node.apply(&Object::local_redirect("policy", "10.96.0.1", 80, "local"));
        Self { node, pods, netns: NetNs::new(), _servers: servers }
    }

    /// Pods start: in one order or another, as kubelet, runtime and API server do it.
    pub(crate) fn start_pods(&mut self, which: impl Fn(&Pod) -> bool) {
        let plugin = Plugin::of(&self.node);
        for (number, pod) in self.pods.iter_mut().filter(|pod| which(pod)).enumerate() {
            if number % 2 == 0 {
                self.node.apply(&pod.object);
            }
            pod.make_cgroup(&self.node);
            pod.add(&plugin, &self.netns);
            if number % 2 == 1 {
                self.node.apply(&pod.object);
            }
        }
    }

    /// Waits until everybody says what the contract says, of every pod, and lets a few connect.
    #[track_caller]
    pub(crate) fn wait_agreed(&self, failing: &[&str]) {
        eventually_within(DEADLINE, || {
            self.kernel(failing)?;
            self.pods(failing)?;
            self.agent(failing)?;
            self.doctor(failing)
        });
        self.explain();
        for pod in &self.pods {
            let wanted = if pod.state() == "leftAlone" { "original" } else { "local" };
            if let Some(answer) = pod.answer(&self.node) {
                assert_eq!(answer, wanted, "{}: {:?}", pod.name(), pod.kind);
            }
        }
    }

    pub(crate) fn count(&self, state: &str, failing: &[&str]) -> usize {
        let healthy = |pod: &&Pod| !failing.contains(&pod.name().as_str());
        self.pods.iter().filter(healthy).filter(|pod| pod.state() == state).count()
    }

    fn kernel(&self, failing: &[&str]) -> Result<(), String> {
        let ours = Programs::open(&self.node.layout(ABI)).map_err(|error| error.to_string())?;
        for pod in self.pods.iter().filter(|pod| !failing.contains(&pod.name().as_str())) {
            let hooks = if pod.state() == "hooked" { Hook::ALL.len() } else { 0 };
            let found = pod.kernel(&ours);
            if found != vec![true; hooks] {
                return Err(format!("{}: {found:?} in the kernel: {:?}", pod.name(), pod.kind));
            }
        }
        Ok(())
    }

    fn pods(&self, failing: &[&str]) -> Result<(), String> {
        let told = self.node.ctl_json(&["pods", "--all"]);
        let mut told: BTreeMap<&str, &Value> =
            told.as_array().unwrap().iter().map(|row| (row["uid"].as_str().unwrap(), row)).collect();
        for pod in &self.pods {
            let name = pod.name();
            let row = told.remove(pod.object.node_uid()).ok_or(format!("{name} is not told"))?;
            let failing = failing.contains(&name.as_str());
            let state = if failing { "failing" } else { pod.state() };
            let hooks = if state == "hooked" { Hook::ALL.len() } else { 0 };
            let same = row["state"] == state
                && row["cgroup"].as_str() == pod.path().to_str()
                && (failing || row["hooks"].as_array().unwrap().len() == hooks)
                && row["why"].is_null() == (state == "hooked")
                && format!("{}/{}", row["namespace"], row["name"]).replace('"', "") == name;
            if !same {
                return Err(format!("{row}: {:?}", pod.kind));
            }
        }
        if told.is_empty() { Ok(()) } else { Err(format!("nobody knows {told:?}")) }
    }

    /// What it says in status, metrics and readiness.
    fn agent(&self, failing: &[&str]) -> Result<(), String> {
        let told = self.node.ctl_json(&["status"]);
        let problems = told["problems"].as_array().unwrap();
        let names = |name: &&str| {
            let begin = format!("pod {name}: ");
            problems.iter().filter(|problem| problem.as_str().unwrap().starts_with(&begin)).count() == 1
        };
        if told["ready"] != failing.is_empty()
            || problems.len() != failing.len()
            || !failing.iter().all(names)
        {
            return Err(format!("ready {}, problems {problems:?}", told["ready"]));
        }
        let get = |server: &str, path: &str| {
            let server = address(told[server].as_str().unwrap());
            self.node.host().run(|| http_get(server, path)).ok_or("no answer".to_owned())
        };
        let (status, words) = get("http", "/readyz")?;
        let named = failing.iter().all(|name| words.matches(&format!("pod {name}: ")).count() == 1);
        if (status == 200) != failing.is_empty() || !named {
            return Err(format!("{status}: {words}"));
        }
        let (_, text) = get("metrics", "/metrics")?;
        let rows = ["balancing_pods_attached", "balancing_pods_failed", "balancing_host_attached"];
        let found = rows.map(|row| metric(&text, row));
        // A pod that lacks one hook has the others.
        let attached = self.count("hooked", &[]);
        let wanted = [attached, failing.len(), 1].map(|count| Some(count as f64));
        if found == wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) }
    }

    fn doctor(&self, failing: &[&str]) -> Result<(), String> {
        let (status, findings) = doctor(&self.node);
        let of = |level: &str| -> Vec<&str> {
            let of_level = findings.iter().filter(|finding| finding["level"] == level);
            of_level.map(|finding| finding["message"].as_str().unwrap()).collect()
        };
        let (problems, warnings, notes, fine) = (of("problem"), of("warning"), of("note"), of("ok"));
        let cgroups = self.pods.len();
        let hooked =
            format!("{} of {cgroups} local pods with a cgroup are hooked", self.count("hooked", failing));
        let names: BTreeSet<&str> = names(&problems);
        let named = names.iter().copied().eq(failing.iter().copied().collect::<BTreeSet<_>>());
        let alone = |note: &&str| {
            let more = format!(" and {} more", self.count("leftAlone", &[]) - 5);
            note.starts_with("are left alone on purpose: ") && note.ends_with(&more)
        };
        let known = |warning: &&str| warning.starts_with("excluded namespaces: the agent has quiet");
        let agrees = (status == 0) == failing.is_empty()
            && problems.is_empty() == failing.is_empty()
            && named
            && warnings.iter().all(known)
            && notes.iter().filter(|note| alone(note)).count() == 1
            && fine.contains(&hooked.as_str())
            && fine.contains(&"host processes: all 8 hooks run");
        if agrees { Ok(()) } else { Err(format!("{status}: {findings:#?}, not {hooked}")) }
    }

    /// Asks of one pod of each sort, with and without the plugin, older and younger than the agent.
    fn explain(&self) {
        let mut asked = BTreeSet::new();
        for pod in &self.pods {
            let Kind { sort, before, plugin, .. } = pod.kind;
            if !asked.insert((sort, before, plugin)) {
                continue;
            }
            let told = self.node.ctl_json(&["explain", FRONTEND, "--pod", &pod.name()]);
            let decision = told["decision"].as_str().unwrap();
            let alone = pod.state() == "leftAlone";
            let same = if alone {
                decision.starts_with("goes where it was dialled: the pod has no hooks (")
            } else {
                decision.starts_with("redirected by ")
            };
            assert!(same, "{:?}: {told}", pod.kind);
        }
    }

    /// Ends some pods and starts as many, of the same kinds.
    pub(crate) fn turn_over(&mut self) {
        let plugin = Plugin::of(&self.node);
        let first = self.pods.len();
        // Pods of every sort are among them, and neither the backend nor one that connects.
        let old: Vec<usize> =
            (5..first).step_by(7).filter(|number| self.pods[*number].sandbox.is_none()).collect();
        for (next, number) in old.into_iter().take(TURNOVER).enumerate() {
            let new = Pod::new(self.pods[number].kind, first + next);
            let mut pod = mem::replace(&mut self.pods[number], new);
            if pod.recorded {
                plugin.del(&pod.object, &pod.container());
            }
            self.node.delete(&pod.object);
            pod.lose_cgroup();
        }
        self.start_pods(|pod| pod.cgroup.is_none());
    }
}

pub(crate) fn doctor(node: &Node) -> (i32, Vec<Value>) {
    let output = node.ctl(&["doctor", "-o", "json"]);
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code().unwrap(), findings)
}

/// The pods that texts name.
fn names<'a>(texts: &[&'a str]) -> BTreeSet<&'a str> {
    let words = texts.iter().flat_map(|text| text.split([' ', ',', ':', '(']));
    words.filter(|word| ["default/p", QUIET, "own/"].iter().any(|start| word.starts_with(start))).collect()
}
