//! Documents, lists and kinds; the objects themselves are in the modules below.

use std::{collections::BTreeSet, path::Path};

use super::{Format, Manifest, ManifestError, parse};
use crate::objects::{Object, ObjectKey, ObjectRef, Policy, PolicyRef};

use balancing_abi::model::PolicyKind;

mod core;
mod fabric;
mod policies;
mod seeds;
mod slices;

fn yaml(text: &str) -> Manifest {
    parse(text, Format::Yaml).unwrap()
}

fn json(text: &str) -> Manifest {
    parse(text, Format::Json).unwrap()
}

fn names(manifest: &Manifest) -> Vec<String> {
    manifest.objects.iter().map(|o| format!("{:?}", o.key())).collect()
}

fn messages(manifest: &Manifest) -> Vec<String> {
    manifest.problems.iter().map(ToString::to_string).collect()
}

fn policy(manifest: &Manifest) -> &Policy {
    let [Object::Policy(policy)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    policy
}

#[test]
fn format_follows_the_extension() {
    for (name, format) in [
        ("a.yaml", Some(Format::Yaml)),
        ("a.yml", Some(Format::Yaml)),
        ("a.json", Some(Format::Json)),
        ("a.b.json", Some(Format::Json)),
        ("yaml", None),
        ("a.yaml.bak", None),
        ("a.JSON", None),
    ] {
        assert_eq!(Format::of(Path::new(name)), format, "{name}");
    }
}

#[test]
fn empty_documents_are_fine() {
    for text in ["", "\n", "# nothing\n", "---\n---\n", "null\n", "---\n# a\n---\n...\n", "\u{feff}"] {
        assert_eq!(yaml(text), Manifest::default(), "{text:?}");
    }
    for text in ["", " \n", "null"] {
        assert_eq!(json(text), Manifest::default(), "{text:?}");
    }
}

#[test]
fn several_documents() {
    let text = "---\n{apiVersion: v1, kind: Node, metadata: {name: a}}\n---\n---\n\
                apiVersion: v1\nkind: Node\nmetadata:\n  name: b\n---\n";
    assert_eq!(names(&yaml(text)), [r#"Node("a")"#, r#"Node("b")"#]);
    let text = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}
                  {"apiVersion":"v1","kind":"Node","metadata":{"name":"b"}}"#;
    assert_eq!(names(&json(text)), [r#"Node("a")"#, r#"Node("b")"#]);
}

#[test]
fn lists_are_expanded() {
    let list = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}},
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}},
        {"apiVersion":"v1","kind":"NodeList","items":[{"metadata":{"name":"b"}}]}]}"#;
    for manifest in [json(list), yaml(list)] {
        assert_eq!(names(&manifest), [r#"Node("a")"#, r#"Node("b")"#]);
        assert_eq!(manifest.ignored, BTreeSet::from(["ConfigMap (v1)".to_owned()]));
        assert!(manifest.problems.is_empty(), "{manifest:?}");
    }
    // What an API server answers: the items of a typed list name no kind.
    let list = r#"{"apiVersion":"balancing.elf.io/v1beta1","kind":"BalancingPolicyList","metadata":{},
                   "items":[{"metadata":{"name":"p"},"spec":{}}]}"#;
    for manifest in [json(list), yaml(list)] {
        assert_eq!(policy(&manifest).id, PolicyRef { kind: PolicyKind::Balancing, name: "p".into() });
    }
    for list in [r#"{"kind":"List"}"#, r#"{"kind":"List","items":null}"#, r#"{"kind":"PodList","items":[]}"#]
    {
        assert_eq!(json(list), Manifest::default());
        assert_eq!(yaml(list), Manifest::default());
    }
}

#[test]
fn a_bad_item_does_not_hide_the_others() {
    let text = r#"{"kind":"List","items":[5, {"kind":"Node"},
        {"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}, {"metadata":{}}]}"#;
    for manifest in [json(text), yaml(text)] {
        assert_eq!(names(&manifest), [r#"Node("a")"#]);
        assert_eq!(
            messages(&manifest),
            [
                "document 1 items[0]: is not an object; write fields such as apiVersion, kind and metadata",
                "Node in document 1 items[1]: apiVersion is missing; write apiVersion: v1",
                "document 1 items[3]: kind is missing; every object needs apiVersion and kind",
            ]
        );
    }
}

#[test]
fn lists_that_are_no_lists() {
    for text in [r#"{"kind":"List","items":{}}"#, r#"{"kind":"List","items":"a"}"#] {
        for manifest in [json(text), yaml(text)] {
            let [problem] = manifest.problems.as_slice() else { panic!("{manifest:?}") };
            assert!(problem.message.starts_with("items: "), "{problem}");
        }
    }
    let deep = r#"{"kind":"List","items":["#.repeat(5) + &"]}".repeat(5);
    let [message] = messages(&json(&deep)).try_into().unwrap();
    assert_eq!(message, "document 1 items[0]: lists are nested more than 4 deep; move the items up");
}

#[test]
fn deeply_nested_text_is_refused_not_a_crash() {
    let deep = "[".repeat(200_000);
    assert!(parse(&deep, Format::Json).is_err());
    assert!(parse(&deep, Format::Yaml).is_err());
}

#[test]
fn an_unknown_kind_of_ours_is_a_problem() {
    let manifest = parse(
        "{apiVersion: balancing.elf.io/v1beta1, kind: LocalRedirectPolicies, metadata: {name: a}}",
        Format::Yaml,
    )
    .unwrap();
    assert!(manifest.objects.is_empty() && manifest.ignored.is_empty());
    let [problem] = manifest.problems.as_slice() else { panic!("{manifest:?}") };
    assert_eq!(
        problem.to_string(),
        "LocalRedirectPolicies a: kind LocalRedirectPolicies of balancing.elf.io/v1beta1 is unknown to this version; it \
         is ignored. Known are LocalRedirectPolicy, BalancingPolicy, TunnelFabric, TunnelNode, TunnelAddressClaim and \
         ExternalHost: correct the kind"
    );
}

#[test]
fn other_kinds_and_groups_are_ignored() {
    let text = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}}\n---\n\
                {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: b}}\n---\n\
                {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}\n---\n\
                {apiVersion: other.io/v1, kind: BalancingPolicy, metadata: {name: a}}\n---\n\
                {apiVersion: cilium.io/v2, kind: CiliumLocalRedirectPolicy, metadata: {name: a}}\n";
    let manifest = yaml(text);
    assert_eq!((manifest.objects.len(), manifest.problems.len()), (0, 0), "{manifest:?}");
    let ignored: Vec<_> = manifest.ignored.iter().map(String::as_str).collect();
    assert_eq!(
        ignored,
        [
            "BalancingPolicy (other.io/v1)",
            "CiliumLocalRedirectPolicy (cilium.io/v2)",
            "EndpointSlice (discovery.k8s.io/v1)",
            "Service (serving.knative.dev/v1)",
        ]
    );
}

#[test]
fn our_group_in_another_version_is_a_problem() {
    let text = "{apiVersion: balancing.elf.io/v1, kind: BalancingPolicy, metadata: {name: a}}";
    assert_eq!(
        messages(&yaml(text)),
        [
            "BalancingPolicy a: apiVersion must be balancing.elf.io/v1beta1, found \"balancing.elf.io/v1\"; convert the object"
        ]
    );
}

#[test]
fn names_are_required() {
    for metadata in ["{}", r#"{"name":""}"#, r#"{"name":5}"#, "null"] {
        let text = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata}}}"#);
        for manifest in [json(&text), yaml(&text)] {
            assert_eq!(manifest.objects, []);
            assert_eq!(
                messages(&manifest),
                ["Pod in document 1: metadata.name is missing or not a string; every object needs a name"]
            );
        }
    }
}

#[test]
fn the_first_of_two_equal_names_counts() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: a, namespace: default}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: a, namespace: other}}\n";
    let manifest = yaml(text);
    let key =
        |namespace: &str| ObjectKey::Service(ObjectRef { namespace: namespace.into(), name: "a".into() });
    assert_eq!(manifest.objects.iter().map(Object::key).collect::<Vec<_>>(), [key("default"), key("other")]);
    let Object::Service(first) = &manifest.objects[0] else { panic!("{manifest:?}") };
    assert_eq!(first.cluster_ips.len(), 1);
    assert_eq!(
        messages(&manifest),
        ["Service default/a: appears twice in this file; the first one counts, remove the other"]
    );
}

#[test]
fn an_object_with_wrong_types_is_unreadable_and_named() {
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"ports":[{"containerPort":"http"}]}]}}"#;
    for manifest in [json(text), yaml(text)] {
        let key = ObjectKey::Pod(ObjectRef { namespace: "default".into(), name: "a".into() });
        assert_eq!(manifest.unreadable, BTreeSet::from([key]));
        assert_eq!(
            messages(&manifest),
            [
                "Pod a: spec.containers[0].ports[0].containerPort: invalid type: string \"http\", expected i64; \
              correct the field"
            ]
        );
    }
}

#[test]
fn invalid_text_is_an_error_with_its_place() {
    let error = parse("a: 1\n---\nb: [1\n", Format::Yaml).unwrap_err();
    assert!(matches!(error, ManifestError::Yaml { document: 2, .. }), "{error}");
    assert!(error.to_string().contains("line 4"), "{error}");
    let error = parse(r#"{"kind":"List"} {"kind" 5}"#, Format::Json).unwrap_err();
    assert!(matches!(error, ManifestError::Json { document: 2, .. }), "{error}");
    assert!(error.to_string().contains("line 1 column 25"), "{error}");
}

#[test]
fn duplicate_keys_are_never_swallowed() {
    let error = parse("kind: Pod\nspec:\n  a: 1\n  a: 2\n", Format::Yaml).unwrap_err().to_string();
    assert!(error.contains("duplicate key \"a\"; remove one of them"), "{error}");
    let text = r#"{"apiVersion":"balancing.elf.io/v1beta1","kind":"BalancingPolicy","metadata":{"name":"p"},
                   "spec":{"backend":{},"backend":{}}}"#;
    let manifest = json(text);
    let problems = &policy(&manifest).spec.as_ref().unwrap_err().problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].field, "spec");
    assert!(problems[0].message.contains("duplicate key \"backend\""), "{problems:?}");
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let row = format!("*a{},", i - 1).repeat(10);
        text += &format!("a{i}: &a{i} [{row}]\n");
    }
    assert!(parse(&text, Format::Yaml).is_err());
}
