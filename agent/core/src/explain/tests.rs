//! Explanations name the winner, the losers and the way of a client.

use balancing_abi::model::{ClientId::NetnsCookie, Clients};

use super::{Deviation, Explanation, explain};
use crate::{
    objects::{
        ObjectRef, Pod, Policy,
        RedirectMode::{NodeProxy, PodEndpoint},
    },
    resolve::{Settings, fixtures::*},
};

const FRONT: &str = "10.96.0.1";

fn front() -> crate::objects::FrontendSpec {
    at_address(FRONT, &[("", 80, Tcp)])
}

fn mk_redirect(name: &str) -> Policy {
    mk_local(name, front(), web_pods(&[("", 8080, Tcp)]))
}

fn mk_client(name: &str) -> Pod {
    Pod { labels: labels(&[("app", "client")]), ..mk_pod(name, &["10.0.0.9"]) }
}

fn ask(lab: &Lab, client: Option<&ObjectRef>) -> Explanation {
    explain(&lab.engine, key(FRONT, 80, Tcp), client)
}

fn winner(explanation: &Explanation) -> Option<&str> {
    explanation.winner.as_ref().map(|policy| policy.name.as_str())
}

fn why<'a>(explanation: &'a Explanation, name: &str) -> &'a str {
    let loser = explanation.losers.iter().find(|loser| loser.name == name);
    loser.map_or_else(|| panic!("{name} is no loser: {explanation:?}"), |loser| loser.why.as_str())
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

#[test]
fn json_has_the_agreed_fields() {
    let lab = Lab::of([mk_redirect("l").into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let json = serde_json::to_value(ask(&lab, None)).unwrap();
    let expected = serde_json::json!({
        "frontend": {"address": "10.96.0.1", "port": 80, "protocol": "TCP"},
        "winner": {"kind": "LocalRedirectPolicy", "name": "l"},
        "losers": [],
        "backends": [{"address": "10.0.0.1", "port": 8080, "weight": 1, "pod": "default/a", "node": HERE}],
        "decision": "redirected by LocalRedirectPolicy l to 1 backend",
    });
    assert_eq!(json, expected);
}

#[test]
fn nobody_claims_it() {
    let service = mk_service("s", &[FRONT], &[("", 80, Tcp)]);
    let mut lab = Lab::new();
    assert_eq!(ask(&lab, None).decision, "no policy redirects 10.96.0.1:80/TCP; goes where it was dialled");
    lab.put(service);
    let explanation = ask(&lab, None);
    assert_has(&explanation.decision, &["goes where it was dialled, to Service default/s"]);
    assert_eq!((winner(&explanation), explanation.losers.len()), (None, 0));
    lab.put(mk_client("c"));
    assert_eq!(ask(&lab, Some(&mk_ref("c"))).decision, explanation.decision);
}

#[test]
fn losers_of_a_conflict_and_policies_out_of_force() {
    let lab = Lab::of([
        mk_redirect("old").created(Some(1)).into(),
        mk_redirect("new").into(),
        mk_redirect("off").with(|spec| spec.enabled = false).into(),
        mk_redirect("elsewhere").with(|spec| spec.node_selector = selector(&[("a", "b")])).into(),
        mk_redirect("twin-a")
            .service_id(7)
            .created(Some(0))
            .with(|s| s.frontend = at_address("10.96.9.9", &[("", 80, Tcp)]))
            .into(),
        mk_redirect("twin-b").service_id(7).into(),
        mk_pod("a", &["10.0.0.1"]).into(),
    ]);
    let explanation = ask(&lab, None);
    assert_eq!(winner(&explanation), Some("old"));
    assert_has(why(&explanation, "new"), &["conflict", "LocalRedirectPolicy old"]);
    assert_has(why(&explanation, "off"), &["spec.enabled is false"]);
    assert_has(why(&explanation, "elsewhere"), &["nodeLabelSelector"]);
    assert_has(why(&explanation, "twin-b"), &["service id 7", "twin-a"]);
    assert_eq!(explanation.losers.len(), 4);
}

#[test]
fn other_port_or_protocol_is_a_hint() {
    let lab = Lab::of([
        mk_local("dns", at_address(FRONT, &[("", 53, Udp)]), web_pods(&[("", 53, Udp)])).into(),
        mk_local("lone", at_address(FRONT, &[("a", 80, Tcp), ("b", 81, Tcp)]), web_pods(&[("", 1, Tcp)]))
            .into(),
    ]);
    let explanation = ask(&lab, None);
    assert_has(why(&explanation, "dns"), &["hint", "53/UDP", "80/TCP"]);
    assert_has(why(&explanation, "lone"), &["no partner", "a (80/TCP)"]);
}

#[test]
fn fallback_of_a_policy_without_backends_is_reasoned() {
    let mut lab = Lab::of([mk_redirect("l").into()]);
    let explanation = ask(&lab, None);
    assert_eq!(winner(&explanation), None);
    assert_has(why(&explanation, "l"), &["no backend", "no pod on this node matches"]);
    lab.put(mk_addresses("b", front(), &["1.1.1.1"], 80));
    let explanation = ask(&lab, None);
    assert_eq!(winner(&explanation), Some("b"));
    assert_eq!(explanation.decision, "redirected by BalancingPolicy b to 1 backend");
    assert_has(why(&explanation, "l"), &["no backend"]);
}

#[test]
fn second_layer_behind_a_limit() {
    let lab = Lab::of([
        mk_redirect("l").with(|spec| spec.qos_limit = Some(100)).into(),
        mk_addresses("b", front(), &["1.1.1.1", "1.1.1.2"], 80).into(),
        mk_pod("a", &["10.0.0.1"]).into(),
    ]);
    let explanation = ask(&lab, None);
    assert_eq!(winner(&explanation), Some("l"));
    assert_has(
        &explanation.decision,
        &["above 100 redirections in a second: redirected by BalancingPolicy b to 2 backends"],
    );
    assert_has(
        why(&explanation, "b"),
        &["LocalRedirectPolicy l decides before it, except when its limit is reached"],
    );
}

#[test]
fn rejection_is_a_decision() {
    let lab = Lab::of([mk_balancing("b", front(), web_pods(&[("", 1, Tcp)]), PodEndpoint).into()]);
    let explanation = ask(&lab, None);
    assert_eq!(winner(&explanation), Some("b"));
    assert_has(&explanation.decision, &["refused with EHOSTUNREACH", "BalancingPolicy b"]);
    assert!(explanation.backends.is_empty());
}

#[test]
fn backend_pod_that_is_skipped_goes_to_the_next_layer() {
    let skipping = mk_redirect("l").with(|spec| spec.skip_redirect_from_backend = true);
    let mut lab = Lab::of([skipping.into(), mk_pod("a", &["10.0.0.1"]).into(), mk_client("c").into()]);
    let explanation = ask(&lab, Some(&mk_ref("a")));
    assert_eq!(winner(&explanation), Some("l"));
    assert_has(&explanation.decision, &["skipRedirectFromBackend has no effect yet"]);
    lab.identify("uid-a", &[NetnsCookie(7)]);
    let explanation = ask(&lab, Some(&mk_ref("a")));
    assert_eq!(winner(&explanation), None);
    assert_has(why(&explanation, "l"), &["skipRedirectFromBackend"]);
    assert_has(&explanation.decision, &["stands aside", "goes where it was dialled"]);
    lab.put(mk_addresses("b", front(), &["1.1.1.1"], 80));
    assert_eq!(winner(&ask(&lab, Some(&mk_ref("a")))), Some("b"));
    assert_eq!(winner(&ask(&lab, Some(&mk_ref("c")))), Some("l"), "other pods are redirected");
}

#[test]
fn clients_decide_per_pod_and_are_told_without_one() {
    let mut host = mk_client("host");
    host.host_network = true;
    let lab = Lab::of([
        mk_redirect("l").with(|spec| spec.clients = Clients::Pods).into(),
        mk_pod("a", &["10.0.0.1"]).into(),
        mk_client("c").into(),
        host.into(),
    ]);
    assert_eq!(winner(&ask(&lab, Some(&mk_ref("c")))), Some("l"));
    let explanation = ask(&lab, Some(&mk_ref("host")));
    assert_eq!(winner(&explanation), None);
    assert_has(why(&explanation, "l"), &["spec.clients admits pods only"]);
    assert_has(
        &ask(&lab, None).decision,
        &["it applies to pods only, for others: goes where it was dialled"],
    );
}

#[test]
fn pods_that_no_policy_can_reach() {
    let mut out = mk_client("out");
    out.redirect_disabled = true;
    let mut far = mk_client("far");
    far.node = THERE.to_owned();
    let mut lab = Lab::with_settings(Settings { scope: Clients::Host, ..mk_settings() });
    lab.put(mk_redirect("l"));
    lab.put(mk_pod("a", &["10.0.0.1"]));
    for pod in [out, far, mk_client("plain")] {
        lab.put(pod);
    }
    for (name, part) in [("out", "opted out"), ("plain", "--scope")] {
        let explanation = ask(&lab, Some(&mk_ref(name)));
        assert_has(&explanation.decision, &[part, "goes where it was dialled"]);
        assert_eq!((winner(&explanation), explanation.backends.len()), (None, 0));
    }
    // Where their connections go is not known here.
    for (name, part) in [("far", "runs on node-b"), ("no", "no such pod is on node node-a: pod default/no")] {
        let explanation = ask(&lab, Some(&mk_ref(name)));
        assert_has(&explanation.decision, &[part]);
        assert!(!explanation.decision.contains("dialled"), "{}", explanation.decision);
        assert_eq!((winner(&explanation), explanation.backends.len()), (None, 0));
    }
}

#[test]
fn an_invalid_policy_that_names_the_address_is_a_loser() {
    let read = |kind: &str, frontend: &str| {
        let text = format!(
            "{{apiVersion: balancing.elf.io/v1beta1, kind: {kind}, metadata: {{name: {}}}, spec: {{frontend: {frontend}, \
             backend: {{}}}}}}",
            kind.to_lowercase()
        );
        let manifest = crate::manifest::parse(&text, crate::manifest::Format::Yaml).unwrap();
        let [object] = manifest.objects.try_into().unwrap();
        object
    };
    let mut lab = Lab::of([
        mk_service("s", &[FRONT], &[("", 80, Tcp)]).into(),
        read(
            "LocalRedirectPolicy",
            &format!("{{addressMatcher: {{ip: {FRONT}, toPorts: [{{port: 053}}]}}}}"),
        ),
        read("BalancingPolicy", "{serviceMatcher: {serviceName: s, namespace: default}}"),
    ]);
    let explanation = ask(&lab, None);
    assert_has(why(&explanation, "localredirectpolicy"), &["its spec is invalid", "spec.backend"]);
    assert_has(why(&explanation, "balancingpolicy"), &["its spec is invalid", "spec.backend"]);
    lab.put(read("LocalRedirectPolicy", "{addressMatcher: {ip: 10.9.9.9}}"));
    assert_eq!(ask(&lab, None).losers.len(), 1, "another address");
}

#[test]
fn what_the_kernel_does_instead_is_told() {
    let lab = Lab::of([mk_addresses("b", front(), &["1.1.1.1"], 80).into()]);
    let told = |deviation: &Deviation, kernel: &[&str]| {
        let mut explanation = ask(&lab, None);
        let kernel: Vec<String> = kernel.iter().map(|name| (*name).to_owned()).collect();
        explanation.deviate(deviation, &kernel);
        explanation
    };
    let failed = told(&Deviation::Failed("table FRONTENDS is full".to_owned()), &[]);
    assert_eq!((winner(&failed), failed.backends.len()), (None, 0));
    assert_has(
        &failed.decision,
        &["not in force: redirected by", "FRONTENDS is full", "go where they were dialled"],
    );
    let unsynced = told(&Deviation::NotSynced, &["LocalRedirectPolicy l"]);
    assert_has(
        &unsynced.decision,
        &["has not read all objects", "the kernel has an earlier state, of LocalRedirectPolicy l"],
    );
    assert_has(
        &told(&Deviation::Kept, &["BalancingPolicy b"]).decision,
        &["redirected by", "not in force yet"],
    );
}

#[test]
fn weight_zero_everywhere_without_reject_falls_through() {
    let policy = mk_addresses("b", front(), &["1.1.1.1"], 80).with(|spec| {
        spec.on_no_backend = Some(crate::objects::OnNoBackend::Fallback);
        if let crate::objects::BackendSpec::Addresses { addresses, .. } = &mut spec.backend {
            addresses[0].weight = 0;
        }
    });
    let explanation = ask(&Lab::of([policy.into()]), None);
    assert_eq!(winner(&explanation), None);
    assert_has(&explanation.decision, &["weight 0", "goes where it was dialled"]);
}

#[test]
fn a_policy_whose_proxy_port_belongs_to_another_says_so() {
    let policy = |name, created, app, front| {
        let mut pods = web_pods(&[("", 20080, Tcp)]);
        pods.selector = selector(&[("app", app)]);
        mk_balancing(name, at_address(front, &[("", 80, Tcp)]), pods, NodeProxy).created(Some(created))
    };
    let lab = Lab::of([policy("old", 1, "x", "10.9.9.1").into(), policy("new", 2, "y", FRONT).into()]);
    let explanation = ask(&lab, None);
    assert_has(why(&explanation, "new"), &["conflict", "proxy port 20080/TCP", "old"]);
}
