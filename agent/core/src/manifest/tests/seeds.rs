//! The manifests that users of the original project have: they are read as they are.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use balancing_abi::model::{PolicyKind, Protocol};

use super::{names, policy, yaml};
use crate::{
    manifest::{Format, Manifest, parse},
    objects::{BackendSpec, FrontendSpec, Port, RedirectMode},
};

fn seeds() -> BTreeMap<String, String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seeds");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read_to_string(f.path()).unwrap())).collect()
}

fn seed(name: &str) -> Manifest {
    yaml(&seeds()[name])
}

fn port(port: u16, name: &str) -> Port {
    Port { port, protocol: Protocol::Tcp, name: name.into() }
}

#[test]
fn every_seed_is_valid() {
    let seeds = seeds();
    assert_eq!(seeds.len(), 11);
    let mut policies = 0;
    for (name, text) in &seeds {
        let manifest = yaml(text);
        assert!(manifest.problems.is_empty(), "{name}: {:?}", manifest.problems);
        if name.contains("cilium") {
            assert_eq!((manifest.objects.len(), manifest.ignored.len()), (0, 1), "{name}");
        } else if name.contains("pod-lrp-pod") {
            assert_eq!(names(&manifest).len(), 1, "{name}");
        } else {
            let spec = &policy(&manifest).spec;
            assert!(spec.is_ok(), "{name}: {spec:?}");
            policies += 1;
        }
    }
    assert_eq!(policies, 8);
}

#[test]
fn the_end_of_a_here_document_is_no_yaml() {
    let text = &seeds()["08-balancingpolicy-test-service-hostport.yaml"];
    assert!(parse(&format!("{text}EOF\n"), Format::Yaml).is_err());
}

#[test]
fn address_to_local_pods() {
    let manifest = seed("01-localredirectpolicy-test-addr.yaml");
    let policy = policy(&manifest);
    assert_eq!((policy.id.kind, policy.service_id), (PolicyKind::LocalRedirect, Some(10091)));
    let spec = policy.spec.as_ref().unwrap();
    let ip: IpAddr = "169.254.0.90".parse().unwrap();
    assert_eq!(spec.frontend, FrontendSpec::Address { ip, ports: vec![port(8080, "p1"), port(80, "p2")] });
    let BackendSpec::LocalPods(pods) = &spec.backend else { panic!("{spec:?}") };
    assert_eq!(pods.selector.labels, BTreeMap::from([("app".to_owned(), "http-redirect".to_owned())]));
    assert_eq!(
        pods.ports.iter().map(|p| p.port.clone()).collect::<Vec<_>>(),
        [port(80, "p1"), port(80, "p2")]
    );
    assert!(spec.enabled && spec.qos_limit.is_none() && !spec.skip_redirect_from_backend);
}

#[test]
fn redirect_modes() {
    for (name, mode) in [
        ("07-balancingpolicy-test-service-podendpoint.yaml", RedirectMode::PodEndpoint),
        ("08-balancingpolicy-test-service-hostport.yaml", RedirectMode::HostPort),
        ("09-balancingpolicy-test-service-nodeproxy.yaml", RedirectMode::NodeProxy),
    ] {
        let manifest = seed(name);
        let spec = policy(&manifest).spec.clone().unwrap();
        assert!(matches!(spec.backend, BackendSpec::Pods { mode: m, .. } if m == mode), "{spec:?}");
        assert!(spec.out_cluster);
    }
}

#[test]
fn custom_backends() {
    let manifest = seed("10-balancingpolicy-test-addr.yaml");
    let spec = policy(&manifest).spec.clone().unwrap();
    let BackendSpec::Addresses { addresses, ports } = spec.backend else { panic!("{spec:?}") };
    let addresses: Vec<_> = addresses.iter().map(|a| (a.ip.to_string(), a.weight)).collect();
    assert_eq!(addresses, [("1.1.1.1".to_owned(), 1), ("1.1.1.2".to_owned(), 1)]);
    assert_eq!(ports, [port(80, "p1"), port(80, "p2")]);
}
