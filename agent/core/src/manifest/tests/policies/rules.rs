//! Every rule of every kind with the examples that keep and break it: `agent/core/tests/fixtures/rules`.

use std::path::Path;

use serde_json::json;

use super::{local, parse_json, problems, with};
use crate::objects::{InvalidSpec, Object};

#[path = "../../../../tests/fixtures/rules/cases.rs"]
mod cases;

fn problems_of(tree: &serde_json::Value) -> Vec<String> {
    let manifest = parse_json(&tree.to_string());
    assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
    let [object] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    let invalid: Option<&InvalidSpec> = match object {
        Object::Policy(object) => object.spec.as_ref().err(),
        Object::Fabric(object) => object.spec.as_ref().err(),
        Object::Member(object) => object.spec.as_ref().err(),
        Object::ExternalHost(object) => object.spec.as_ref().err(),
        Object::Claim(object) => object.spec.as_ref().err(),
        Object::Pod(_) | Object::Node(_) | Object::Service(_) | Object::Endpoints(_) => None,
    };
    let problems = invalid.into_iter().flat_map(|invalid| &invalid.problems);
    problems.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

#[test]
fn every_example_has_its_problems() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rules");
    let cases = cases::cases(&directory).unwrap();
    let wrong: Vec<_> = cases
        .iter()
        .map(|case| (case, problems_of(&case.object)))
        .filter(|(case, found)| *found != case.problems)
        .map(|(case, found)| format!("{}\n  expected {:?}\n  found    {found:?}", case.name, case.problems))
        .collect();
    assert!(cases.len() > 300, "only {} examples", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stricter = cases.iter().find(|case| case.problems.is_empty() && case.refusal.is_some());
    assert!(stricter.is_none(), "the API server may not refuse what the agent accepts: {stricter:?}");
}

#[test]
fn long_values_are_shortened() {
    let found = problems(&with(local(), "/spec/frontend/addressMatcher/ip", json!("x".repeat(10_000))));
    assert!(found[0].len() < 300 && found[0].contains("(shortened)"), "{found:?}");
}
