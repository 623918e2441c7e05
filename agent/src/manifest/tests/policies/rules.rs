//! One row per rule: what is changed in a valid policy, and the one problem it must lead to.

use serde_json::{Value, json};

use super::{local, problems, to_addresses, to_pods, with};

type Row = (&'static str, Value, &'static str);

const PORT: &str = "must be a port from 1 to 65535";
const DIGITS: &str = "write only its digits, without sign, blank or leading zero";

#[track_caller]
fn check(base: fn() -> Value, rows: &[Row]) {
    for (pointer, value, problem) in rows {
        assert_eq!(problems(&with(base(), pointer, value.clone())), [*problem], "{pointer} = {value}");
    }
}

#[test]
fn types_and_words() {
    check(
        local,
        &[
            (
                "/spec/enabled",
                json!("true"),
                "spec.enabled: must be true or false, found \"true\"; write it without quotes",
            ),
            (
                "/spec/clients",
                json!("Pods"),
                "spec.clients: must be one of all, pods, host, found \"Pods\"; use one of these words",
            ),
            (
                "/spec/clients",
                json!(1),
                "spec.clients: must be one of all, pods, host, found 1; use one of these words",
            ),
            (
                "/spec/skipRedirectFromBackend",
                json!(1),
                "spec.skipRedirectFromBackend: must be true or false, found 1; write it without quotes",
            ),
            (
                "/spec/config",
                json!([]),
                "spec.config: must be an object, found a list; write its fields below it",
            ),
            (
                "/spec/backend/toPorts",
                json!({}),
                "spec.backend.toPorts: must be a list, found an object; write it as one",
            ),
            (
                "/spec/backend/namespace",
                json!(5),
                "spec.backend.namespace: must be text, found 5; put it in quotes",
            ),
        ],
    );
    check(
        to_pods,
        &[
            (
                "/spec/onNoBackend",
                json!("reject"),
                "spec.onNoBackend: must be one of Fallback, Reject, found \"reject\"; use one of these words",
            ),
            (
                "/spec/sessionAffinity",
                json!("Cookie"),
                "spec.sessionAffinity: must be one of None, ClientIP, found \"Cookie\"; use one of these words",
            ),
            (
                "/spec/config",
                json!({"enableOutCluster": "no"}),
                "spec.config.enableOutCluster: must be true or false, found \"no\"; write it without quotes",
            ),
            (
                "/spec/backend/serviceEndpoint/redirectMode",
                json!("nodePort"),
                "spec.backend.serviceEndpoint.redirectMode: must be one of podEndpoint, hostPort, nodeProxy, found \"nodePort\"; use one of these words",
            ),
        ],
    );
}

#[test]
fn numbers() {
    let qos = |found: &str| {
        format!(
            "spec.qosLimit: must be an integer from 0 to 4294967295, found {found}; write a number of that range without quotes"
        )
    };
    for (value, found) in [
        (json!(-1), "-1"),
        (json!("100"), "\"100\""),
        (json!(1.5), "1.5"),
        (json!(4_294_967_296_u64), "4294967296"),
        (json!(true), "true"),
    ] {
        assert_eq!(problems(&with(local(), "/spec/qosLimit", value)), [qos(found)]);
    }
    let timeout = |found: &str| {
        format!(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: must be an integer from 1 to 86400, found {found}; write a number of that range without quotes"
        )
    };
    for (value, found) in [(json!(0), "0"), (json!(86401), "86401"), (json!("1"), "\"1\"")] {
        let base = with(to_pods(), "/spec/sessionAffinity", json!("ClientIP"));
        let policy =
            with(base, "/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": value}}));
        assert_eq!(problems(&policy), [timeout(found)]);
    }
    assert_eq!(
        problems(&with(to_pods(), "/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 5}}))),
        [
            "spec.sessionAffinityConfig: is only allowed with sessionAffinity: ClientIP; remove it or set sessionAffinity"
        ]
    );
}

#[test]
fn required_fields() {
    check(
        local,
        &[
            (
                "/spec/frontend",
                Value::Null,
                "spec.frontend: is required; add addressMatcher or serviceMatcher",
            ),
            ("/spec/backend", Value::Null, "spec.backend: is required; add endpointSelector and toPorts"),
            (
                "/spec/frontend/addressMatcher/ip",
                Value::Null,
                "spec.frontend.addressMatcher.ip: is required; add the virtual address",
            ),
            (
                "/spec/frontend/addressMatcher/toPorts",
                Value::Null,
                "spec.frontend.addressMatcher.toPorts: is required; add at least one port",
            ),
            (
                "/spec/frontend/addressMatcher/toPorts",
                json!([]),
                "spec.frontend.addressMatcher.toPorts: must have at least 1 port, found none; add one",
            ),
            (
                "/spec/backend/endpointSelector",
                Value::Null,
                "spec.backend.endpointSelector: is required; add matchLabels, or {} for all pods",
            ),
            (
                "/spec/backend/toPorts",
                Value::Null,
                "spec.backend.toPorts: is required; add at least one port",
            ),
            (
                "/spec/backend/toPorts",
                json!([]),
                "spec.backend.toPorts: must have at least 1 port, found none; add one",
            ),
            (
                "/spec/backend/toPorts/0/port",
                Value::Null,
                "spec.backend.toPorts[0].port: is required; add a port from 1 to 65535",
            ),
        ],
    );
    check(
        to_addresses,
        &[
            (
                "/spec/backend",
                Value::Null,
                "spec.backend: is required; add serviceEndpoint or addressEndpoint",
            ),
            (
                "/spec/frontend/serviceMatcher/serviceName",
                Value::Null,
                "spec.frontend.serviceMatcher.serviceName: is required; add the name of the Service",
            ),
            (
                "/spec/frontend/serviceMatcher/namespace",
                Value::Null,
                "spec.frontend.serviceMatcher.namespace: is required; add the namespace of the Service",
            ),
            (
                "/spec/backend/addressEndpoint/addresses",
                Value::Null,
                "spec.backend.addressEndpoint.addresses: is required; add at least one address",
            ),
            (
                "/spec/backend/addressEndpoint/addresses",
                json!([]),
                "spec.backend.addressEndpoint.addresses: must have at least one address, found none; add one",
            ),
            (
                "/spec/backend/addressEndpoint/toPorts",
                Value::Null,
                "spec.backend.addressEndpoint.toPorts: is required; add at least one port",
            ),
            (
                "/spec/backend/addressEndpoint/addresses/0",
                json!({"weight": 5}),
                "spec.backend.addressEndpoint.addresses[0].ip: is required; add the address",
            ),
        ],
    );
    check(
        to_pods,
        &[
            (
                "/spec/backend/serviceEndpoint/endpointSelector",
                Value::Null,
                "spec.backend.serviceEndpoint.endpointSelector: is required; add matchLabels, or {} for all pods",
            ),
            (
                "/spec/backend/serviceEndpoint/toPorts",
                Value::Null,
                "spec.backend.serviceEndpoint.toPorts: is required; add at least one port",
            ),
        ],
    );
}

#[test]
fn exactly_one() {
    check(
        local,
        &[
            (
                "/spec/frontend",
                json!({}),
                "spec.frontend: must have exactly one of addressMatcher and serviceMatcher, found neither; add one",
            ),
            (
                "/spec/frontend/serviceMatcher",
                json!({"serviceName": "s", "namespace": "n"}),
                "spec.frontend: must have exactly one of addressMatcher and serviceMatcher, found both; remove one",
            ),
        ],
    );
    check(
        to_pods,
        &[
            (
                "/spec/backend",
                json!({}),
                "spec.backend: must have exactly one of serviceEndpoint and addressEndpoint, found neither; add one",
            ),
            (
                "/spec/backend/addressEndpoint",
                json!({"addresses": ["192.0.2.1"], "toPorts": [{"port": 1}]}),
                "spec.backend: must have exactly one of serviceEndpoint and addressEndpoint, found both; remove one",
            ),
        ],
    );
}

#[test]
fn unknown_fields() {
    check(
        local,
        &[
            (
                "/spec/enable",
                json!(true),
                "spec.enable: unknown field; remove it or use one of enabled, config, frontend, backend, skipRedirectFromBackend, qosLimit, clients",
            ),
            (
                "/spec/sessionAffinity",
                json!("None"),
                "spec.sessionAffinity: unknown field here, it belongs to BalancingPolicy; remove it",
            ),
            (
                "/spec/onNoBackend",
                json!("Reject"),
                "spec.onNoBackend: unknown field here, it belongs to BalancingPolicy; remove it",
            ),
            (
                "/spec/config",
                json!({"enableOutCluster": true}),
                "spec.config.enableOutCluster: unknown field here, it belongs to BalancingPolicy; remove it",
            ),
            (
                "/spec/frontend/addressMatcher/namespace",
                json!("n"),
                "spec.frontend.addressMatcher.namespace: unknown field here, it belongs to serviceMatcher; remove it",
            ),
            (
                "/spec/frontend/addressMatcher/toPorts/0/Port",
                json!(1),
                "spec.frontend.addressMatcher.toPorts[0].Port: unknown field; remove it or use one of port, protocol, name",
            ),
            (
                "/spec/backend/redirectMode",
                json!("hostPort"),
                "spec.backend.redirectMode: unknown field here, it belongs to BalancingPolicy; remove it",
            ),
            (
                "/spec/backend/endpointSelector/app",
                json!("a"),
                "spec.backend.endpointSelector.app: unknown field; remove it or use one of matchLabels, matchExpressions",
            ),
        ],
    );
    check(
        to_pods,
        &[
            (
                "/spec/qosLimit",
                json!(1),
                "spec.qosLimit: unknown field here, it belongs to LocalRedirectPolicy; remove it",
            ),
            (
                "/spec/clients",
                json!("all"),
                "spec.clients: unknown field here, it belongs to LocalRedirectPolicy; remove it",
            ),
            (
                "/spec/skipRedirectFromBackend",
                json!(true),
                "spec.skipRedirectFromBackend: unknown field here, it belongs to LocalRedirectPolicy; remove it",
            ),
            (
                "/spec/backend/toPorts",
                json!([]),
                "spec.backend.toPorts: unknown field here, it belongs to serviceEndpoint or addressEndpoint; remove it",
            ),
            (
                "/spec/backend/serviceEndpoint/a b",
                json!(1),
                "spec.backend.serviceEndpoint[\"a b\"]: unknown field; remove it or use one of endpointSelector, namespace, redirectMode, toPorts",
            ),
            (
                "/spec/frontend/serviceMatcher/ip",
                json!("10.0.0.1"),
                "spec.frontend.serviceMatcher.ip: unknown field here, it belongs to addressMatcher; remove it",
            ),
        ],
    );
    check(
        to_addresses,
        &[(
            "/spec/backend/addressEndpoint/healthCheck",
            json!({}),
            "spec.backend.addressEndpoint.healthCheck: unknown field here, it is not supported by this version; remove it",
        )],
    );
}

#[test]
fn ports() {
    let field = "spec.backend.toPorts[0].port";
    for (value, found) in [
        (json!("0"), "\"0\""),
        (json!("65536"), "\"65536\""),
        (json!("080"), "\"080\""),
        (json!("+80"), "\"+80\""),
        (json!("-80"), "\"-80\""),
        (json!(" 80"), "\" 80\""),
        (json!(""), "\"\""),
        (json!("http"), "\"http\""),
        (json!("٨٠"), "\"٨٠\""),
        (json!(0), "0"),
        (json!(65536), "65536"),
        (json!(-1), "-1"),
        (json!(80.0), "80.0"),
        (json!(true), "true"),
        (json!([80]), "a list"),
    ] {
        assert_eq!(
            problems(&with(local(), "/spec/backend/toPorts/0/port", value)),
            [format!("{field}: {PORT}, found {found}; {DIGITS}")]
        );
    }
}

#[test]
fn protocols() {
    check(
        to_pods,
        &[
            (
                "/spec/backend/serviceEndpoint/toPorts/0/protocol",
                json!("SCTP"),
                "spec.backend.serviceEndpoint.toPorts[0].protocol: must be TCP or UDP, connections of other protocols cannot be redirected, \
          found \"SCTP\"; remove the port or change its protocol",
            ),
            (
                "/spec/backend/serviceEndpoint/toPorts/0/protocol",
                json!("tcp"),
                "spec.backend.serviceEndpoint.toPorts[0].protocol: must be one of TCP, UDP, found \"tcp\"; use one of these words",
            ),
        ],
    );
    check(
        local,
        &[(
            "/spec/backend/toPorts/0/protocol",
            json!("UDP"),
            "spec.backend.toPorts[0].protocol: must be the protocol of the only frontend port 80/TCP, found UDP; they can never pair, change one",
        )],
    );
    let udp_front = with(
        to_addresses(),
        "/spec/frontend/serviceMatcher/toPorts",
        json!([{"port": 53, "protocol": "UDP"}]),
    );
    assert_eq!(
        problems(&udp_front),
        [
            "spec.backend.addressEndpoint.toPorts[0].protocol: must be the protocol of the only frontend port 53/UDP, found TCP; \
          they can never pair, change one"
        ]
    );
}

#[test]
fn port_names() {
    let rule = "must be a lower-case IANA service name: 1 to 15 letters, digits or '-', at least one letter, no '-' at the ends and no two in a row";
    for name in ["HTTP", "-a", "a-", "a--b", "80", "a_b", "a.b", "sixteen-letters-"] {
        assert_eq!(
            problems(&with(local(), "/spec/backend/toPorts/0/name", json!(name))),
            [format!("spec.backend.toPorts[0].name: {rule}, found {name:?}; correct it")]
        );
    }
    for name in ["a", "8a", "a-1-b", "fifteen-letters", ""] {
        assert_eq!(problems(&with(local(), "/spec/backend/toPorts/0/name", json!(name))), [""; 0], "{name}");
    }
}

#[test]
fn several_ports() {
    let missing = "is required as soon as a list has two ports; add a name that pairs frontend and backend";
    let two = json!([{"port": 1}, {"port": 2, "name": ""}]);
    assert_eq!(
        problems(&with(local(), "/spec/backend/toPorts", two)),
        [
            format!("spec.backend.toPorts[0].name: {missing}"),
            format!("spec.backend.toPorts[1].name: {missing}")
        ]
    );
    check(
        local,
        &[
            (
                "/spec/backend/toPorts",
                json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a", "protocol": "UDP"}]),
                "spec.backend.toPorts[1].name: must be unique in the list, found \"a\" as in [0]; rename one",
            ),
            (
                "/spec/frontend/addressMatcher/toPorts",
                json!([{"port": 1, "name": "a"}, {"port": "1", "name": "b"}]),
                "spec.frontend.addressMatcher.toPorts[1]: must differ from the other ports, found 1/TCP as in [0]; remove one",
            ),
        ],
    );
    // Two frontend ports may lead to one backend port, and a port may have both protocols.
    let ports = json!([{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]);
    assert_eq!(problems(&with(local(), "/spec/backend/toPorts", ports)), [""; 0]);
    let ports = json!([{"port": 1, "name": "a"}, {"port": 1, "name": "b", "protocol": "UDP"}]);
    assert_eq!(problems(&with(local(), "/spec/frontend/addressMatcher/toPorts", ports)), [""; 0]);
}

#[test]
fn target_ports() {
    let pointer = "/spec/backend/serviceEndpoint/toPorts/0/targetPort";
    let field = "spec.backend.serviceEndpoint.toPorts[0].targetPort";
    let misplaced =
        "unknown field here, it belongs to serviceEndpoint.toPorts with redirectMode: nodeProxy; remove it";
    assert_eq!(problems(&with(to_pods(), pointer, json!(80))), [format!("{field}: {misplaced}")]);
    assert_eq!(
        problems(&with(local(), "/spec/backend/toPorts/0/targetPort", json!(80))),
        [format!("spec.backend.toPorts[0].targetPort: {misplaced}")]
    );
    let proxy = with(to_pods(), "/spec/backend/serviceEndpoint/redirectMode", json!("nodeProxy"));
    for (value, found) in
        [(json!(0), "0"), (json!("0"), "\"0\""), (json!("080"), "\"080\""), (json!({}), "an object")]
    {
        assert_eq!(
            problems(&with(proxy.clone(), pointer, value)),
            [format!("{field}: {PORT}, found {found}; {DIGITS}")]
        );
    }
    assert!(
        problems(&with(proxy, pointer, json!("a b")))[0]
            .starts_with(&format!("{field}: must be a lower-case IANA"))
    );
}

#[test]
fn addresses() {
    let one = "write one IPv4 or IPv6 address";
    for (ip, rule) in [
        ("10.0.0.0/8", "must be a single IP address, not a network"),
        ("fe80::1%eth0", "must be an IP address without a zone"),
        ("10.0.0", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        ("010.0.0.1", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        (" 10.0.0.1", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        ("[::1]", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        ("example.org", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        ("", "must be an IP address such as 192.0.2.1 or 2001:db8::1"),
        ("0.0.0.0", "must not be the unspecified address"),
        ("::", "must not be the unspecified address"),
        ("::ffff:0.0.0.0", "must not be the unspecified address"),
        ("224.0.0.1", "must not be a multicast address"),
        ("ff02::1", "must not be a multicast address"),
        ("::ffff:224.0.0.1", "must not be a multicast address"),
    ] {
        assert_eq!(
            problems(&with(local(), "/spec/frontend/addressMatcher/ip", json!(ip))),
            [format!("spec.frontend.addressMatcher.ip: {rule}, found {ip:?}; {one}")]
        );
        let address = "/spec/backend/addressEndpoint/addresses/0";
        let field = "spec.backend.addressEndpoint.addresses[0]";
        assert_eq!(
            problems(&with(to_addresses(), address, json!(ip))),
            [format!("{field}: {rule}, found {ip:?}; {one}")]
        );
        assert_eq!(
            problems(&with(to_addresses(), address, json!({"ip": ip}))),
            [format!("{field}.ip: {rule}, found {ip:?}; {one}")]
        );
    }
    for ip in ["10.0.0.1", "::1", "fe80::1", "::ffff:10.0.0.1", "169.254.169.254", "127.0.0.1"] {
        assert_eq!(problems(&with(local(), "/spec/frontend/addressMatcher/ip", json!(ip))), [""; 0], "{ip}");
    }
}

#[test]
fn lists_of_addresses() {
    let list = "/spec/backend/addressEndpoint/addresses";
    let weight = "must be an integer from 0 to 100";
    let range = "write a number of that range without quotes";
    assert_eq!(
        problems(&with(to_addresses(), list, json!([
            "192.0.2.1", 5, {"ip": "192.0.2.2", "weight": 101}, {"ip": "192.0.2.3", "weight": -1}, {"ip": "192.0.2.4", "weigth": 1},
            "::ffff:192.0.2.1",
        ]))),
        [
            "spec.backend.addressEndpoint.addresses[1]: must be an IP address or an object with ip and weight, found 5; put an address in quotes"
                .to_owned(),
            format!("spec.backend.addressEndpoint.addresses[2].weight: {weight}, found 101; {range}"),
            format!("spec.backend.addressEndpoint.addresses[3].weight: {weight}, found -1; {range}"),
            "spec.backend.addressEndpoint.addresses[4].weigth: unknown field; remove it or use one of ip, weight".into(),
            "spec.backend.addressEndpoint.addresses[5]: must differ from the other addresses, found 192.0.2.1 as in [0]; remove one".into(),
        ]
    );
}

#[test]
fn labels_and_namespaces() {
    let dns =
        "must be a DNS label: 1 to 63 lower-case letters, digits or '-', first and last a letter or digit";
    let long = "a".repeat(64);
    for name in ["", "A", "a.b", "-a", "a-", "a_b", long.as_str()] {
        for (base, pointer, field) in [
            (local as fn() -> Value, "/spec/backend/namespace", "spec.backend.namespace"),
            (to_pods, "/spec/backend/serviceEndpoint/namespace", "spec.backend.serviceEndpoint.namespace"),
            (
                to_pods,
                "/spec/frontend/serviceMatcher/serviceName",
                "spec.frontend.serviceMatcher.serviceName",
            ),
            (to_pods, "/spec/frontend/serviceMatcher/namespace", "spec.frontend.serviceMatcher.namespace"),
        ] {
            assert_eq!(
                problems(&with(base(), pointer, json!(name))),
                [format!("{field}: {dns}, found {name:?}; correct it")]
            );
        }
    }
}

#[test]
fn selectors() {
    let key = "must be a label key: an optional DNS subdomain and '/', then 1 to 63 letters, digits, '-', '_' or '.', first and last a letter or digit";
    let value =
        "must be a label value: up to 63 letters, digits, '-', '_' or '.', first and last a letter or digit";
    let selector = |s: Value| problems(&with(local(), "/spec/backend/endpointSelector", s));
    let at = "spec.backend.endpointSelector";
    for bad in ["", "a b", "/a", "a/", "a/b/c", "A.org/x", "-a", &"a".repeat(64)] {
        let found = selector(json!({"matchLabels": {bad: "x"}}));
        assert!(
            found.len() == 1 && found[0].ends_with(&format!(": {key}, found {bad:?}; correct the key")),
            "{found:?}"
        );
        assert_eq!(
            selector(json!({"matchExpressions": [{"key": bad, "operator": "Exists"}]})),
            [format!("{at}.matchExpressions[0].key: {key}, found {bad:?}; correct it")]
        );
    }
    assert_eq!(
        selector(json!({"matchLabels": {"a/b": "x y"}})),
        [format!("{at}.matchLabels[\"a/b\"]: {value}, found \"x y\"; correct it")]
    );
    assert_eq!(
        selector(json!({"matchLabels": {"a": true}})),
        [format!("{at}.matchLabels.a: must be text, found true; put it in quotes")]
    );
    let expression = |e: Value| selector(json!({"matchExpressions": [e]}));
    let at = format!("{at}.matchExpressions[0]");
    for (e, problem) in [
        (json!({"operator": "Exists"}), "key: is required; add the label's key"),
        (json!({"key": "a"}), "operator: is required; add In, NotIn, Exists or DoesNotExist"),
        (
            json!({"key": "a", "operator": "Gt", "values": ["1"]}),
            "operator: must be one of In, NotIn, Exists, DoesNotExist, found \"Gt\"; use one of these words",
        ),
        (
            json!({"key": "a", "operator": "In"}),
            "values: must have at least one value with operator In or NotIn, found none; add one",
        ),
        (
            json!({"key": "a", "operator": "NotIn", "values": []}),
            "values: must have at least one value with operator In or NotIn, found none; add one",
        ),
        (
            json!({"key": "a", "operator": "Exists", "values": ["x"]}),
            "values: must be empty with operator Exists or DoesNotExist; remove the values",
        ),
        (
            json!({"key": "a", "operator": "In", "values": [5]}),
            "values[0]: must be text, found 5; put it in quotes",
        ),
        (
            json!({"key": "a", "operator": "Exists", "value": 1}),
            "value: unknown field; remove it or use one of key, operator, values",
        ),
    ] {
        assert_eq!(expression(e), [format!("{at}.{problem}")]);
    }
    assert_eq!(
        problems(&with(to_pods(), "/spec/config", json!({"nodeLabelSelector": {"matchLabels": []}}))),
        [
            "spec.config.nodeLabelSelector.matchLabels: must be an object, found a list; write its fields below it"
        ]
    );
}

#[test]
fn metadata() {
    let id = "metadata.annotations[\"balancing.elf.io/serviceId\"]: must be a number from 1 to 4294967295 in quotes";
    for (value, found) in [
        (json!("0"), "\"0\""),
        (json!("4294967296"), "\"4294967296\""),
        (json!("x"), "\"x\""),
        (json!(""), "\"\""),
        (json!("+1"), "\"+1\""),
        (json!(10091), "10091"),
    ] {
        let policy = with(local(), "/metadata/annotations", json!({"balancing.elf.io/serviceId": value}));
        assert_eq!(
            problems(&policy),
            [format!("{id}, found {found}; correct it, or remove it to get a derived id")]
        );
    }
    assert_eq!(
        problems(&with(local(), "/metadata/creationTimestamp", json!("yesterday"))),
        [
            "metadata.creationTimestamp: must be an RFC 3339 time such as 2026-01-31T12:00:00Z, found \"yesterday\"; correct or remove it"
        ]
    );
    assert_eq!(
        problems(&with(local(), "/metadata/name", json!("A b"))),
        [
            "metadata.name: must be a DNS subdomain: up to 253 lower-case letters, digits, '-' or '.', each part beginning and ending \
          with a letter or digit, found \"A b\"; rename the policy"
        ]
    );
}

#[test]
fn long_values_are_shortened() {
    let found = problems(&with(local(), "/spec/frontend/addressMatcher/ip", json!("x".repeat(10_000))));
    assert!(found[0].len() < 300 && found[0].contains("(shortened)"), "{found:?}");
}
