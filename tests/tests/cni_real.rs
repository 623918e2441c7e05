//! The plugin in chains of real plugins, called by what container runtimes call plugins with: cnitool, and libcni of three
//! generations.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use balancing_dataplane::layout::Hook;
use balancing_tests::{
    Cgroup, NetNs, Pinned,
    libcni::{Answer, Attachment, Chain, GENERATIONS},
    pinned::running,
    require_kernel,
};
use serde_json::{Value, json};

const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
/// A generation that has no GC and no STATUS.
const OLDEST: &str = "1.1.2";

/// A node with a chain, and a pod on it.
struct World {
    host: Pinned,
    chain: Chain,
    netns: NetNs,
    cgroup: Cgroup,
}

impl World {
    fn new(topic: &str) -> Self {
        Self::on(Pinned::new(topic))
    }

    fn on(host: Pinned) -> Self {
        let cgroup = host.pod(UID);
        Self { host, chain: Chain::new("1.0.0", &[]), netns: NetNs::new(), cgroup }
    }

    fn attachment(&self) -> Attachment {
        Attachment::new("c1", &self.netns, UID)
    }

    /// Ours with a recorder before and after it.
    fn watched(&self) -> [Value; 3] {
        [self.chain.recorder("before"), self.host.entry(), self.chain.recorder("after")]
    }

    /// Checks that ours handed on what it was given, and that the pod is attached.
    #[track_caller]
    fn assert_handed_on(&self) -> Value {
        let (before, after) = (self.chain.recorded("before"), self.chain.recorded("after"));
        assert_eq!(before, after);
        assert!(self.host.is_attached(UID, &self.cgroup), "{:?}", self.host.links(UID));
        after
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert!(self.host.traces().is_empty(), "{:?}", self.host.traces());
        assert_eq!(running(&self.cgroup, Hook::Connect4), 0);
    }
}

/// The reference plugins that follow the one that makes the interface.
fn meta() -> [Value; 3] {
    [
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
        json!({"type": "portmap", "backend": "nftables", "snat": true, "capabilities": {"portMappings": true}}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
    ]
}

/// The result without what bandwidth adds: the device that limits.
fn without_limiter(result: &Value) -> Value {
    let mut result = result.clone();
    let interfaces = result["interfaces"].as_array_mut().unwrap();
    interfaces.retain(|interface| !interface["name"].as_str().unwrap().starts_with("bwp"));
    result
}

/// A pod's life through one generation of libcni: in each version, ours last, in the middle and twice.
fn life(topic: &str, generation: &str) {
    if !require_kernel() {
        return;
    }
    let world = World::new(topic);
    let attachment = world.attachment();
    let call = |verb: &str| world.chain.call(generation, verb, &attachment);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        // libcni 1.1 knows no 1.1.0.
        if generation == OLDEST && version == "1.1.0" {
            continue;
        }
        let last = [vec![world.chain.bridge()], meta().into(), world.watched().into()].concat();
        let middle = [vec![world.chain.bridge()], world.watched().into(), meta().into()].concat();
        let twice = [middle.clone(), vec![world.host.entry()]].concat();
        for plugins in [last, middle, twice] {
            world.chain.write(version, &plugins);
            call("VALIDATE").expect();
            let result = call("ADD").expect();
            let handed_on = world.assert_handed_on();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(without_limiter(&result), without_limiter(&handed_on), "{version}");
            if version >= "0.4.0" {
                call("CHECK").expect();
            }
            if version == "1.1.0" {
                call("STATUS").expect();
                world.chain.call_with(generation, "GC", &attachment, &[&attachment]).expect();
                assert!(world.host.is_attached(UID, &world.cgroup), "GC left it alone");
            }
            call("DEL").expect();
            world.assert_gone();
            call("DEL").expect();
        }
    }
}

#[test]
fn a23_b15_libcni_of_containerd_1_7() {
    life("libcni11", GENERATIONS[0]);
}

#[test]
fn a23_b15_libcni_of_containerd_2_1_and_crio_1_33() {
    life("libcni130", GENERATIONS[1]);
}

#[test]
fn a23_b15_libcni_newest() {
    life("libcni131", GENERATIONS[2]);
}

#[test]
fn a23_cnitool() {
    if !require_kernel() {
        return;
    }
    let world = World::new("cnitool");
    let attachment = world.attachment();
    let call = |verb: &str| {
        let (succeeded, text) = world.chain.cnitool(verb, &attachment);
        assert!(succeeded, "{verb}: {text}");
        text
    };
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let plugins = [vec![world.chain.bridge()], world.watched().into(), meta().into()].concat();
        world.chain.write(version, &plugins);
        let result: Value = serde_json::from_str(&call("add")).unwrap();
        assert_eq!(without_limiter(&result), world.assert_handed_on());
        call("check");
        if version == "1.1.0" {
            call("status");
        }
        call("del");
        world.assert_gone();
        // It tells not what is in use: libcni ends what it has cached, ours removes nothing.
        if version == "1.1.0" {
            call("add");
            call("gc");
            world.assert_gone();
        }
    }
}

#[test]
fn b16_behind_each_plugin_that_makes_an_interface() {
    if !require_kernel() {
        return;
    }
    let world = World::new("primary");
    let attachment = world.attachment();
    let outside = NetNs::new();
    world.chain.host().join("up0", &outside, "up1");
    let ipam = world.chain.ipam();
    for primary in [
        world.chain.dual_stack_bridge(),
        json!({"type": "ptp", "ipMasq": false, "ipam": ipam}),
        json!({"type": "macvlan", "master": "up0", "mode": "bridge", "ipam": ipam}),
    ] {
        for version in ["0.3.1", "1.0.0", "1.1.0"] {
            world.chain.write(version, &[std::slice::from_ref(&primary), &world.watched()[..]].concat());
            let result = world.chain.call(GENERATIONS[2], "ADD", &attachment).expect();
            assert_eq!(result, world.assert_handed_on(), "{primary} {version}");
            world.chain.call(GENERATIONS[2], "DEL", &attachment).expect();
            world.assert_gone();
        }
    }
}

#[test]
fn a15_a23_errors_arrive_as_those_of_cni() {
    if !require_kernel() {
        return;
    }
    let world = World::on(Pinned::without_programs("typed"));
    let attachment = world.attachment();
    for generation in GENERATIONS {
        for version in ["0.3.1", "1.0.0"] {
            let plugins = [world.chain.bridge(), world.host.entry()];
            world.chain.write(version, &plugins);
            let Answer::Error(error) = world.chain.call(generation, "ADD", &attachment) else {
                panic!("{generation}: no error of CNI")
            };
            assert_eq!(error["code"], 11, "{error}");
            assert!(error["details"].as_str().unwrap().contains("balancing-agent"), "{error}");
            // What every runtime does then; bridge takes its part away, and ours leaves nothing.
            world.chain.call(generation, "DEL", &attachment).expect();
            world.assert_gone();
        }
    }
    // Without a list to chain to.
    world.chain.write("1.0.0", &[world.host.entry()]);
    for generation in GENERATIONS {
        let Answer::Error(error) = world.chain.call(generation, "ADD", &attachment) else {
            panic!("{generation}: no error of CNI")
        };
        assert_eq!(error["code"], 7, "{error}");
    }
}

#[test]
fn f22_f23_gc_ends_what_the_runtime_does_not_know() {
    if !require_kernel() {
        return;
    }
    let world = World::new("gc");
    let other_uid = "1b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
    let (other_netns, other_cgroup) = (NetNs::new(), world.host.pod(other_uid));
    let (first, second) = (world.attachment(), Attachment::new("c2", &other_netns, other_uid));
    world.chain.write("1.1.0", &[world.chain.bridge(), world.host.entry()]);
    for generation in &GENERATIONS[1..] {
        let gc = |valid: &[&Attachment]| world.chain.call_with(generation, "GC", &first, valid).expect();
        let add = || {
            for attachment in [&first, &second] {
                world.chain.call(generation, "ADD", attachment).expect();
            }
        };
        add();
        // The runtime has lost its disk: libcni knows nothing it could end, so it is on the plugin.
        world.chain.lose_cache();
        gc(&[&second]);
        assert!(world.host.links(UID).is_empty() && world.host.is_attached(other_uid, &other_cgroup));
        // No container at all: libcni writes `null` for an empty list.
        gc(&[]);
        world.assert_gone();
        for attachment in [&first, &second] {
            world.chain.call(generation, "DEL", attachment).expect();
        }
        add();
        gc(&[&first]);
        assert!(world.host.is_attached(UID, &world.cgroup) && world.host.links(other_uid).is_empty());
        world.chain.call(generation, "DEL", &first).expect();
        world.assert_gone();
    }
}
