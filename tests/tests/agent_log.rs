//! The log of an agent with many policies: a start is a summary, a reason that hits many is one line, and what changes
//! later is told one by one.

use std::time::Duration;

use balancing_tests::*;

/// Lines of a start, whatever it finds.
const MOST: usize = 60;
/// A line that is certainly written, on however slow a machine.
const SOON: Duration = Duration::from_secs(60);

fn policy(name: &str, number: usize) -> Object {
    let frontend = format!("10.96.{}.{}", number / 250, number % 250);
    Object::balancing_to(name, &frontend, 80, &["192.0.2.1"])
}

/// Policies that are well and others that are not, in one file and in files of their own, and files that are none.
fn apply_all(node: &Node) {
    let named = |kind: &str, number| (format!("{kind}-{number:04}"), number);
    let good = (0..4_000).map(|number| named("good", number)).map(|(name, n)| policy(&name, n).created(1));
    let losers = (0..500).map(|number| named("loser", number)).map(|(name, n)| policy(&name, n).created(2));
    let lost = (0..400).map(|number| named("lost", number).0);
    let lost = lost.map(|name| Object::balancing(&name, "10.96.0.1", 80, "web").for_service("nowhere"));
    let invalid = |number| {
        let (name, number) = named("invalid", number);
        policy(&name, 5_000 + number).with("/spec/onNoBackend", "Perhaps")
    };
    let all = good.chain(losers).chain(lost).chain((0..100).map(invalid));
    node.apply_text("all.json", &Object::list(all).json());
    (100..200).map(invalid).for_each(|object| node.apply(&object));
    (0..100).for_each(|number| node.apply_text(&format!("broken-{number}.yaml"), "{"));
}

/// The only line with these words.
#[track_caller]
fn line(log: &str, words: &[&str]) -> String {
    let found: Vec<_> = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(found.len(), 1, "{words:?} in {found:?} of\n{log}");
    found[0].to_owned()
}

#[test]
fn a_start_is_a_summary_and_a_change_is_a_line() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("log");
    apply_all(&node);
    let pods = (0..30).map(|number| Object::pod(&format!("pod-{number:02}"), "client", &["10.200.0.2"]));
    let _cgroups: Vec<_> = pods.inspect(|pod| node.apply(pod)).map(|pod| node.pod_cgroup(&pod)).collect();
    node.start();
    let log = node.agent().log();
    assert!(log.lines().count() < MOST, "{log}");
    line(&log, &["INFO", "policies are resolved policies=4000 idle=0 frontends=4000 backends=4000"]);
    for (reason, count, example) in [
        ("InvalidSpec", 200, "BalancingPolicy invalid-0000: spec.onNoBackend"),
        ("ServiceNotFound", 400, "BalancingPolicy lost-0000: "),
        ("Conflicted", 500, "BalancingPolicy loser-0000: "),
    ] {
        let words = ["WARN", "policies have a problem, such as", example];
        let found = line(&log, &words);
        let fields = format!("policies={count} reason=\"{reason}\"");
        assert!(found.ends_with(&fields), "{fields}: {found}");
    }
    line(&log, &["INFO", "pods are attached, such as default/pod-00 pods=30"]);
    let broken = log.lines().filter(|line| line.contains("broken-"));
    assert_eq!(broken.count(), 20);
    line(&log, &["WARN", "more problems; `balancingctl status` lists all", "more=80"]);

    // What changes later is told one by one.
    node.apply(&policy("late", 6_000));
    node.wait_backends("late", 1);
    node.delete(&policy("late", 6_000));
    node.apply(&policy("invalid-0150", 5_150));
    node.wait_backends("invalid-0150", 1);
    let wanted =
        |log: &str| log.contains("policy is gone") && log.contains("name=\"invalid-0150\" frontends=1");
    eventually(|| {
        let log = node.agent().log();
        if wanted(&log) { Ok(()) } else { Err(log) }
    });
    let later = node.agent().log()[log.len()..].to_owned();
    line(&later, &["INFO", "name=\"late\" frontends=1 backends=1"]);
    line(&later, &["INFO", "policy is gone", "name=\"late\""]);
    assert!(later.lines().count() < 10, "{later}");

    // The next start is a summary again.
    let before = node.agent().log().lines().count();
    node.agent().kill();
    node.start();
    assert!(node.agent().log().lines().count() - before < MOST);
}

#[test]
fn what_the_plugin_says_is_in_the_agents_log() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("plugin-log");
    node.start();
    let (plugin, pod) = (Plugin::of(&node), Object::pod("late", "client", &["10.200.0.2"]));
    // It has no cgroup yet.
    plugin.add(&pod, "c1", None);
    wait_until(SOON, || node.agent().log().contains("starts without redirection"));
    let log = node.agent().log();
    line(
        &log,
        &["WARN", "CNI plugin: ADD network=\"cluster\" container=\"c1\"", "starts without redirection"],
    );
    node.agent().kill();
    plugin.add(&pod, "c2", None);
    node.start();
    plugin.add(&pod, "c3", None);
    wait_until(SOON, || node.agent().log().contains("container=\"c3\""));
}
