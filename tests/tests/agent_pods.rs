//! Every pod is seen, at once and whatever happened before: the agent beside the CNI plugin, real cgroups and links.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    ABI,
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links::{self, Programs},
    settings::{NodeSettings, Told as _},
    sys,
};
use balancing_tests::{
    redirected::{FRONTEND, Redirected as World, client_pod, policy},
    *,
};
use serde_json::json;

/// Far above what an event takes, below the next look at everything.
const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn wait_hooked(node: &Node, cgroup: &Cgroup) {
    wait_hooks(node, cgroup, Hook::ALL.len());
}

#[track_caller]
fn wait_hooks(node: &Node, cgroup: &Cgroup, wanted: usize) {
    eventually_within(SOON, || match attached(cgroup) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found} hooks: {:?}", node.view())),
    });
}

fn attached(cgroup: &Cgroup) -> usize {
    let directory = CgroupDir::open(cgroup.path()).unwrap();
    let count = |hook: Hook| sys::prog_query(directory.as_fd(), hook.attach_type()).unwrap().programs.len();
    Hook::ALL.into_iter().map(count).sum()
}

/// A program that lets everything pass.
fn other_program() -> OwnedFd {
    let spec = sys::ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: Hook::Connect4.attach_type(),
        name: "other",
        instructions: &sys::RETURN_ONE,
    };
    sys::prog_load(&spec, None).unwrap()
}

/// What `explain` says of the frontend for a pod.
fn decision(node: &Node, pod: &str) -> String {
    let told = node.ctl_json(&["explain", FRONTEND, "--pod", &format!("default/{pod}")]);
    told["decision"].as_str().unwrap().to_owned()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_pod_is_hooked_as_soon_as_it_has_a_cgroup() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("at-once");
    let pods: Vec<Object> = (0..50).map(|number| client_pod(&format!("p{number:02}"))).collect();
    pods.iter().for_each(|pod| world.node.apply(pod));
    world.node.start();
    // The objects are there for long before the cgroups, so that whatever searched for them has grown slow.
    wait_until(SOON, || world.node.ctl_json(&["pods"]) == json!([]));
    thread::sleep(Duration::from_secs(4));
    assert!(world.node.view().unwrap().problems.is_empty(), "a pod without a cgroup has no process");
    let mut times = Vec::new();
    let mut cgroups = Vec::new();
    for pod in &pods {
        let start = Instant::now();
        let cgroup = world.node.pod_cgroup(pod);
        wait_until(SOON, || attached(&cgroup) == Hook::ALL.len());
        times.push(start.elapsed());
        cgroups.push(cgroup);
    }
    let (first, median, last) = (times[0], median(times.clone()), *times.iter().max().unwrap());
    println!("hooked after its cgroup appeared: first {first:?}, median {median:?}, longest {last:?}");
    assert!(median <= Duration::from_millis(200), "{median:?}");
    // Another driver's names, in slices that are not there yet.
    let slice = world.node.cgroup().path().join("kubepods.slice/kubepods-besteffort.slice");
    let pod = client_pod("slice");
    world.node.apply(&pod);
    wait_until(SOON, || world.node.ctl_json(&["pods"]).as_array().unwrap().len() == pods.len());
    let name = format!("kubepods-besteffort-pod{}.slice", pod.uid().replace('-', "_"));
    let below = slice.join(name).strip_prefix(world.node.cgroup().path()).unwrap().to_owned();
    let cgroup = world.node.cgroup().child(below.to_str().unwrap());
    let start = Instant::now();
    wait_hooked(&world.node, &cgroup);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_link_that_is_taken_away_is_back_within_a_second() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("taken");
    let pod = client_pod("pod");
    let cgroup = world.node.pod_cgroup(&pod);
    world.node.apply(&pod);
    world.node.start();
    wait_hooked(&world.node, &cgroup);
    let (links, host) = (world.node.layout(ABI).pods().join(pod.uid()), world.node.layout(ABI).host());
    let root = world.node.cgroup();
    wait_until(SOON, || attached(root) == Hook::ALL.len());
    for round in 0..3 {
        for (dir, cgroup) in [(&links, &cgroup), (&host, root)] {
            for hook in [Hook::Connect4, Hook::Recvmsg6] {
                let pin = dir.join(hook.name());
                let start = Instant::now();
                if round == 1 {
                    fs::remove_file(&pin).unwrap();
                } else {
                    // The pin stays, and nothing hangs on it any more.
                    sys::link_detach(sys::obj_get(&pin).unwrap().as_fd()).unwrap();
                }
                let back = || attached(cgroup) == Hook::ALL.len() && pin.exists();
                wait_until(SOON, back);
                let took = start.elapsed();
                assert!(took <= Duration::from_millis(1200), "{} after {took:?}", pin.display());
            }
        }
    }
}

#[test]
fn a_static_pod_is_the_one_that_its_mirror_tells_of() {
    if !require_kernel() {
        return;
    }
    let mut world = World::with("static", &[], &policy().with("/spec/skipRedirectFromBackend", true));
    // The static pod is the backend, as a node-local cache is; it must reach what is behind the frontend.
    let cache = Object::pod("cache", "local", &["10.1.0.1"]).mirror();
    let plain = client_pod("plain").mirror();
    let out = client_pod("out").mirror().annotated("balancing.elf.io/redirect", "disabled");
    world.node.delete(&world.backend);
    let places = [&cache, &plain, &out].map(|pod| world.node.sandbox(pod));
    for pod in [&cache, &plain, &out] {
        assert_ne!(pod.uid(), pod.node_uid());
        world.node.apply(pod);
    }
    world.node.start();
    wait_hooked(&world.node, &places[0].cgroup);
    wait_hooked(&world.node, &places[1].cgroup);
    assert_eq!(attached(&places[2].cgroup), 0);
    let answers = places.each_ref().map(|place| place.client().ask_tcp(address(FRONTEND)).unwrap());
    assert_eq!(answers, ["original", "local", "original"]);
    let pods = world.node.ctl_json(&["pods"]);
    let mut names: Vec<&str> =
        pods.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache", "plain"], "{pods}");
    assert!(world.node.view().unwrap().problems.is_empty());
    // Whoever claims to be the mirror of a pod that is known already changes nothing for it.
    let liar = client_pod("a-liar")
        .annotated("kubernetes.io/config.mirror", "x")
        .annotated("kubernetes.io/config.hash", plain.node_uid())
        .annotated("balancing.elf.io/redirect", "disabled");
    world.node.apply(&liar);
    let marker = client_pod("marker");
    let cgroup = world.node.pod_cgroup(&marker);
    world.node.apply(&marker);
    wait_hooked(&world.node, &cgroup);
    assert_eq!(attached(&places[1].cgroup), Hook::ALL.len());
    // An agent that knows nobody does nothing to a pod that two claim.
    world.node.agent().kill();
    let opted_out = client_pod("b-liar").annotated("kubernetes.io/config.mirror", "x");
    world.node.apply(&opted_out.annotated("kubernetes.io/config.hash", out.node_uid()));
    let late = client_pod("late");
    let cgroup = world.node.pod_cgroup(&late);
    world.node.apply(&late);
    world.node.start();
    wait_hooked(&world.node, &cgroup);
    assert_eq!([&places[1].cgroup, &places[2].cgroup].map(attached), [Hook::ALL.len(), 0]);
}

#[test]
fn a_new_sandbox_is_recognised_by_its_own_record() {
    if !require_kernel() {
        return;
    }
    let mut world = World::with("sandbox", &[], &policy().with("/spec/skipRedirectFromBackend", true));
    let place = world.node.sandbox(&world.backend);
    world.node.start();
    let plugin = Plugin::of(&world.node);
    // In the order of their names the old sandbox comes last.
    let old = NetNs::new();
    plugin.add(&world.backend, "z-old", Some(&old));
    plugin.add(&world.backend, "a-new", Some(&place.netns));
    let mut client = place.client();
    eventually_within(Duration::from_secs(5), || match client.ask_tcp(address(FRONTEND)).unwrap() {
        name if name == "original" => Ok(()),
        other => Err(other),
    });
    // What the plugin detaches is not attached again while the pod ends.
    plugin.del(&world.backend, "z-old");
    assert_eq!(attached(&place.cgroup), Hook::ALL.len());
    plugin.del(&world.backend, "a-new");
    let late = Instant::now();
    while late.elapsed() < Duration::from_millis(500) {
        assert_eq!(attached(&place.cgroup), 0);
    }
}

#[test]
fn excluded_namespaces_are_one_setting() {
    if !require_kernel() {
        return;
    }
    let mut world = World::with("excluded", &["--exclude-namespaces", "kube-system, quiet"], &policy());
    let quiet = |name: &str| client_pod(name).with("/metadata/namespace", "quiet");
    let (older, newer, own) = (quiet("older"), quiet("newer"), client_pod("own"));
    let cgroups = [&older, &newer, &own].map(|pod| world.node.pod_cgroup(pod));
    world.node.apply(&older);
    world.node.start();
    let told = NodeSettings::read(world.node.run_dir()).unwrap().unwrap();
    assert_eq!(
        told.exclude_namespaces.iter().map(String::as_str).collect::<Vec<_>>(),
        ["kube-system", "quiet"]
    );
    let (plugin, netns) = (Plugin::of(&world.node), NetNs::new());
    plugin.add(&newer, "c1", Some(&netns));
    // A list of the plugin's own stands above the agent's, in both directions.
    plugin.clone().with("excludeNamespaces", json!(["default"])).add(&own, "c2", Some(&netns));
    let still_here = quiet("still-here");
    let last = world.node.pod_cgroup(&still_here);
    plugin.clone().with("excludeNamespaces", json!([])).add(&still_here, "c3", Some(&netns));
    for pod in [&newer, &own, &still_here] {
        world.node.apply(pod);
    }
    let marker = client_pod("marker");
    let marked = world.node.pod_cgroup(&marker);
    world.node.apply(&marker);
    wait_hooked(&world.node, &marked);
    assert_eq!(cgroups.each_ref().map(attached), [0, 0, 0]);
    assert_eq!(attached(&last), Hook::ALL.len());
    // `cleanup` takes the records; the setting is the agent's and holds.
    world.node.agent().terminate();
    assert!(world.node.cleanup().0.success());
    world.node.start();
    wait_hooked(&world.node, &cgroups[2]);
    assert_eq!([&cgroups[0], &cgroups[1], &last].map(attached), [0, 0, 0]);
    assert!(world.node.view().unwrap().ready);
}

#[test]
fn without_the_annotation_a_pod_is_redirected_whatever_it_was_at_its_start() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("annotation");
    let pod = client_pod("pod");
    let place = world.node.sandbox(&pod);
    let disabled = pod.clone().annotated("balancing.elf.io/redirect", "disabled");
    world.node.apply(&disabled);
    world.node.start();
    let annotations = json!({"io.kubernetes.cri.pod-annotations": {"balancing.elf.io/redirect": "disabled"}});
    let plugin = Plugin::of(&world.node).with("runtimeConfig", annotations);
    plugin.add(&pod, "c1", Some(&place.netns));
    assert_eq!(attached(&place.cgroup), 0);
    world.node.apply(&pod);
    wait_hooked(&world.node, &place.cgroup);
    assert_eq!(place.client().ask_tcp(address(FRONTEND)).unwrap(), "local");
    world.node.apply(&disabled);
    wait_hooks(&world.node, &place.cgroup, 0);
}

#[test]
fn where_pods_are_not_hooked_the_plugin_hooks_none() {
    if !require_kernel() {
        return;
    }
    for arguments in [["--scope", "host"], ["--role", "external"]] {
        let mut world = World::new("not-pods");
        world.node.start();
        let (pod, netns) = (client_pod("pod"), NetNs::new());
        let (cgroup, plugin) = (world.node.pod_cgroup(&pod), Plugin::of(&world.node));
        plugin.add(&pod, "c1", Some(&netns));
        assert_eq!(attached(&cgroup), Hook::ALL.len());
        world.node.agent().terminate();
        world.node.agent().add_args(arguments);
        world.node.start();
        wait_hooks(&world.node, &cgroup, 0);
        assert!(Programs::open(&world.node.layout(ABI)).is_err(), "nothing is left to attach");
        let strict = plugin.clone().with("failurePolicy", "fail");
        for (number, plugin) in [plugin, strict].iter().enumerate() {
            let said = plugin.add(&client_pod("other"), &format!("c{number}x"), Some(&netns));
            assert!(!said.contains("without redirection"), "{said}");
        }
        assert_eq!(attached(&cgroup), 0);
    }
}

#[test]
fn a_full_root_keeps_no_pod_from_its_links() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("full-root");
    let root = CgroupDir::open(world.node.cgroup().path()).unwrap();
    let program = other_program();
    let create = || sys::link_create(other_program().as_fd(), root.as_fd(), Hook::Connect4.attach_type());
    drop(program);
    let others: Vec<OwnedFd> = (0..64).map(|_| create().unwrap()).collect();
    let pod = client_pod("pod");
    let cgroup = world.node.pod_cgroup(&pod);
    world.node.apply(&pod);
    let told = |problem: &String| problem.contains("64 programs");
    world.node.start_until(|view| !view.ready && view.problems.iter().any(told));
    wait_hooked(&world.node, &cgroup);
    drop(others);
    world.node.wait_view(|view| view.ready && view.problems.is_empty());
}

#[test]
fn a_pod_that_cannot_be_hooked_is_told_once_and_makes_the_agent_unready() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("unready");
    let (sick, well) = (client_pod("a-sick"), client_pod("well"));
    let (sick_cgroup, well_cgroup) = (world.node.pod_cgroup(&sick), world.node.pod_cgroup(&well));
    let foreign = world.node.layout(ABI).pods().join(sick.uid()).join("connect4");
    fs::create_dir_all(&foreign).unwrap();
    world.node.apply(&sick);
    world.node.apply(&well);
    world.node.start_until(|view| !view.problems.is_empty());
    wait_hooked(&world.node, &well_cgroup);
    let view = world.node.wait_view(|view| !view.ready && view.problems.len() == 1);
    assert!(view.problems[0].starts_with("pod default/a-sick: "), "{:?}", view.problems);
    let address = view.http.unwrap();
    let (status, words) = world.node.host().run(|| http_get(address, "/readyz")).unwrap();
    assert_eq!(status, 503);
    assert_eq!(words.matches("a-sick").count(), 1, "{words}");
    assert!(
        decision(&world.node, "a-sick").contains("but only 6 hooks run for the pod"),
        "{}",
        decision(&world.node, "a-sick")
    );
    assert!(!decision(&world.node, "well").contains("hooks run for"), "{}", decision(&world.node, "well"));
    fs::remove_dir(&foreign).unwrap();
    world.node.wait_view(|view| view.ready && view.problems.is_empty());
    wait_hooked(&world.node, &sick_cgroup);
}

#[test]
fn an_agent_in_a_pods_network_namespace_says_so() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("namespace");
    let pod = client_pod("pod");
    let place = world.node.sandbox(&pod);
    world.node.apply(&pod);
    // The address of a pod is at an interface of the agent's namespace.
    let agent = Object::pod("agent", "agent", &["10.200.9.9"]);
    world.node.apply(&agent);
    world.node.host().add_address("10.200.9.9/32", "veth0");
    let told = |problem: &String| problem.contains("default/agent") && problem.contains("hostNetwork: true");
    world.node.start_until(|view| !view.ready && view.problems.iter().any(told));
    wait_hooked(&world.node, &place.cgroup);
    assert_eq!(attached(world.node.cgroup()), 0);
    // With hostNetwork it is the host's address.
    world.node.apply(&agent.with("/spec/hostNetwork", true));
    world.node.agent().terminate();
    world.node.start();
    assert_eq!(attached(world.node.cgroup()), Hook::ALL.len());
    // The plugin's record of a pod with this very namespace is proof before anything is loaded.
    world.node.agent().terminate();
    let plugin = Plugin::of(&world.node);
    plugin.add(&pod, "c1", Some(world.node.host()));
    let output = world.node.run_to_end();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("network namespace of pod default/pod"), "{said}");
}

#[test]
fn what_is_taken_away_by_name_is_back_within_half_a_minute() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("by-name");
    let place = world.node.sandbox(&world.backend);
    world.node.start();
    let (plugin, layout) = (Plugin::of(&world.node), world.node.layout(ABI));
    plugin.add(&world.backend, "c1", Some(&place.netns));
    wait_hooked(&world.node, &place.cgroup);
    let settings = world.node.run_dir().join("node.json");
    let names = [layout.program(Hook::Connect4), layout.maps().join("frontends"), settings];
    // DEL, and neither the object nor the cgroup goes: the pod ends, and if it does not it is hooked again. Where the news of ADD comes
    // late, that is at once.
    plugin.del(&world.backend, "c1");
    for path in &names {
        fs::remove_file(path).unwrap();
    }
    // News all the time puts none of that off, and nothing spins.
    let (start, pid) = (Instant::now(), world.node.agent().pid());
    let before = cpu(pid);
    let busy = client_pod("busy");
    let mut number = 0;
    let all_back = || names.iter().all(|path| path.exists()) && attached(&place.cgroup) == Hook::ALL.len();
    wait_until(Duration::from_secs(50), || {
        number += 1;
        world.node.apply(&busy.clone().annotated("number", &number.to_string()));
        thread::sleep(Duration::from_millis(500));
        all_back()
    });
    let (took, used) = (start.elapsed(), cpu(pid) - before);
    println!("back after {took:?}, {used:?} of a CPU");
    assert!(took < Duration::from_secs(40) && used < took / 20, "{used:?} of a CPU in {took:?}");
    assert_eq!(world.node.ctl_json(&["frontends"]).as_array().unwrap().len(), 1);
    assert_eq!(Programs::open(&layout).map(drop).map_err(|error| error.to_string()), Ok(()));
}

#[test]
fn cleanup_beside_running_calls_leaves_no_link() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("cleanup-race");
    let pods: Vec<Object> = (0..4).map(|number| client_pod(&format!("p{number}"))).collect();
    let cgroups: Vec<Cgroup> = pods.iter().map(|pod| world.node.pod_cgroup(pod)).collect();
    for _ in 0..5 {
        world.node.start();
        world.node.agent().kill();
        let plugin = Plugin::of(&world.node).with("cgroupRoot", world.node.cgroup().path().to_str().unwrap());
        let plugin = plugin.with("bpffs", world.node.bpffs().to_str().unwrap());
        let (node, done) = (&world.node, std::sync::atomic::AtomicBool::new(false));
        thread::scope(|scope| {
            for pod in &pods {
                let (plugin, done) = (&plugin, &done);
                scope.spawn(move || {
                    let mut calls = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) || calls < 3 {
                        plugin.add(pod, "c1", None);
                        plugin.add(pod, "c2", None);
                        calls += 1;
                    }
                });
            }
            wait_until(SOON, || cgroups.iter().all(|cgroup| attached(cgroup) > 0));
            let (status, words) = node.cleanup();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(status.success(), "{words}");
        });
        assert_eq!(cgroups.iter().map(attached).sum::<usize>(), 0);
        assert!(!Layout::new(world.node.bpffs(), ABI).base().exists());
        assert!(links::layouts(world.node.bpffs()).unwrap().is_empty());
    }
}
