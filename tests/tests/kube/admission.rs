//! What the API server accepts and refuses by our CRDs, and what kubectl shows of them.

use std::{fs, process::Command};

use balancing_tests::*;

use crate::world::{World, repository};

#[path = "../../../agent/core/tests/fixtures/rules/cases.rs"]
mod rules;

/// The agent's own validator is held to the same table by its unit tests.
#[test]
fn every_rule_holds_and_names_its_field() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let cases = rules::cases(&repository().join("agent/core/tests/fixtures/rules")).unwrap();
    assert!(cases.len() > 500, "only {} examples", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let valid = case.problems.is_empty();
        assert!(
            !valid || case.refusal.is_none(),
            "{}: the agent takes what the API server refuses",
            case.name
        );
        let policy = Object::from(case.object);
        match (world.plane.client().check(&policy), &case.refusal) {
            (Ok(()), None) => {}
            (Ok(()), Some(refusal)) => {
                wrong.push(format!("{}: accepted, not refused with {refusal:?}", case.name));
            }
            (Err(told), None) => wrong.push(format!("{}: refused: {told}", case.name)),
            (Err(told), Some(refusal)) if told.message.contains(refusal) => {}
            (Err(told), Some(refusal)) => {
                wrong.push(format!("{}: {refusal:?} is not in: {told}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} examples differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Manifests of the original project, as they stand in its documents; those of Cilium after `convert`.
#[test]
fn manifests_of_others_are_accepted_strictly() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut policies = 0;
    for entry in fs::read_dir(repository().join("agent/core/tests/fixtures/seeds")).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        if text.contains("CiliumLocalRedirectPolicy") {
            let converted =
                Command::new(program("balancingctl")).args(["convert", "-f"]).arg(&path).output().unwrap();
            assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
            text = String::from_utf8(converted.stdout).unwrap();
        }
        policies += usize::from(text.contains("balancing.elf.io/v1beta1"));
        let applied = world.plane.kubectl_with(&["apply", "--validate=strict", "-f", "-"], &text);
        assert!(applied.ok && applied.stderr.is_empty(), "{}: {}", path.display(), applied.stderr);
    }
    assert!(policies >= 8, "only {policies} policies");
}

#[test]
fn what_kubectl_shows() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    let local = world.put(&Object::local_redirect("local", "169.254.0.10", 80, "web"));
    let service = Object::balancing_to("global", "::", 80, &["10.1.0.1"]).for_service("web");
    let global = world.put(&service);
    world.wait_condition(&local, "Programmed", ("False", "NoBackends"), "");
    world.wait_condition(&global, "Programmed", ("False", "ServiceNotFound"), "");
    let columns = ["NAME", "FRONTEND", "MODE", "ACCEPTED", "CONFLICTED", "BACKENDS", "AGE"];
    for (short, row) in [
        ("lr", ["local", "169.254.0.10", "LocalRedirect", "True", "False", "0"]),
        ("bl", ["global", "web", "addresses", "True", "False", "0"]),
    ] {
        let table = world.plane.kubectl(&["get", short]).stdout;
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], columns, "{table}");
        assert_eq!(rows[1][..6], row, "{table}");
    }
    let both = world.plane.kubectl(&["get", "balancing", "-o", "name"]).stdout;
    assert_eq!(both.lines().count(), 2, "{both}");
    let explained = world.plane.kubectl(&["explain", "lr.spec.frontend.addressMatcher.toPorts.port"]);
    assert!(explained.ok && explained.stdout.contains("DESCRIPTION"), "{explained:?}");
}

/// The examples of the documents, as an operator pastes them.
#[test]
fn documented_policies_are_accepted_strictly() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut policies = 0;
    for document in ["README.md", "docs/policies.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        for example in text.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()) {
            for value in yaml_serde::Deserializer::from_str(example) {
                let value = <serde_json::Value as serde::Deserialize>::deserialize(value).unwrap();
                if value["apiVersion"] == "balancing.elf.io/v1beta1" {
                    let told = world.plane.client().check(&Object::from(value));
                    assert!(told.is_ok(), "{document}: {told:?}: {example}");
                    policies += 1;
                }
            }
        }
    }
    assert_eq!(policies, 6);
}
