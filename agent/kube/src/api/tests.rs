//! The committed CustomResourceDefinitions, and what the types make of the manifests that users have.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use super::{BalancingPolicy, LocalRedirectPolicy, PLURALS, crds, crds_yaml};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_committed_files_are_what_the_types_say() {
    for plural in PLURALS {
        let file = format!("install/crds/{plural}.yaml");
        let committed = fs::read_to_string(repository().join(&file)).unwrap_or_default();
        assert!(committed == crds_yaml(Some(plural)).unwrap(), "{file} is out of date: run `make crds`");
    }
}

#[test]
fn every_definition_has_a_file() {
    let plurals: Vec<_> = crds().into_iter().map(|crd| crd.spec.names.plural).collect();
    assert_eq!(plurals, PLURALS);
    let files: BTreeSet<_> = fs::read_dir(repository().join("install/crds"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, PLURALS.map(|plural| format!("{plural}.yaml")).into());
    let documents = yaml_serde::Deserializer::from_str(&crds_yaml(None).unwrap()).count();
    assert_eq!(documents, PLURALS.len());
}

/// What an API server refuses, or warns about, when the definition is installed.
#[test]
fn schemas_are_plain() {
    fn walk(path: &str, schema: &Value) {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or("int64");
        assert!(["int32", "int64", "date-time", "ipv4", "ipv6"].contains(&format), "{path}: format {format}");
        assert_eq!(schema.get("nullable"), None, "{path}: null must count as absent");
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(property.get("description").is_some(), "{path}: no description");
            walk(&path, property);
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(inner) {
                walk(&format!("{path}[]"), inner);
            }
        }
    }
    for crd in crds() {
        let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        walk(&crd.spec.names.kind, &serde_json::to_value(schema).unwrap());
    }
}

#[test]
fn the_types_read_what_users_have() {
    let mut policies = 0;
    for entry in fs::read_dir(repository().join("agent/core/tests/fixtures/seeds")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let tree: Value = yaml_serde::from_str(&text).unwrap();
        let written = match tree["kind"].as_str().unwrap() {
            "LocalRedirectPolicy" => {
                serde_json::to_value(serde_json::from_value::<LocalRedirectPolicy>(tree.clone()).unwrap())
            }
            "BalancingPolicy" => {
                serde_json::to_value(serde_json::from_value::<BalancingPolicy>(tree.clone()).unwrap())
            }
            _ => continue,
        };
        assert_contains(&path.display().to_string(), &written.unwrap(), &tree);
        policies += 1;
    }
    assert_eq!(policies, 8);
}

/// Reading and writing loses nothing; defaults may come on top.
fn assert_contains(path: &str, written: &Value, original: &Value) {
    match (written, original) {
        (Value::Object(written), Value::Object(original)) => {
            for (key, value) in original {
                let path = format!("{path}.{key}");
                assert_contains(&path, written.get(key).unwrap_or_else(|| panic!("{path} is lost")), value);
            }
        }
        (Value::Array(written), Value::Array(original)) if written.len() == original.len() => {
            written.iter().zip(original).for_each(|(w, o)| assert_contains(path, w, o));
        }
        _ => assert_eq!(written, original, "{path}"),
    }
}
