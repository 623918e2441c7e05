//! What a chained plugin hands on: the results of the plugins before it, as they were printed.

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::plugin::{Call, Nowhere};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// ADD has to print exactly this.
fn hand_on(test: &str, version: &str, result: &str) {
    serde_json::from_str::<IgnoredAny>(result).unwrap();
    let nowhere = Nowhere::new(test);
    let mut call = nowhere.call("u").with("cniVersion", json!(version));
    call.prev_result = Some(result.to_owned());
    call.add();
}

/// What `bridge` with `host-local` prints; since 1.0.0 an address does not tell its family.
fn bridge(version: &str) -> String {
    let family = if version < "1.0.0" { r#""version": "4", "# } else { "" };
    format!(
        r#"{{
    "cniVersion": "{version}",
    "interfaces": [
        {{"name": "cni0", "mac": "0a:58:0a:f4:00:01"}},
        {{"name": "veth1a2b3c4d", "mac": "5e:1f:8c:00:00:02"}},
        {{"name": "eth0", "mac": "0a:58:0a:f4:00:05", "sandbox": "/var/run/netns/cni-1"}}
    ],
    "ips": [{{{family}"interface": 2, "address": "10.244.0.5/24", "gateway": "10.244.0.1"}}],
    "routes": [{{"dst": "10.244.0.0/16"}}, {{"dst": "0.0.0.0/0", "gw": "10.244.0.1"}}],
    "dns": {{}}
}}"#
    )
}

#[test]
fn b1_b2_a_bridges_result_in_every_version() {
    for version in VERSIONS {
        hand_on("bridge", version, &bridge(version));
    }
}

#[test]
fn b4_names_are_neither_invented_nor_dropped() {
    for dns in [
        "",
        r#","dns":{}"#,
        r#","dns":null"#,
        r#","dns":{"nameservers":["10.96.0.10"],"domain":"a.b","search":["c.d"],"options":["ndots:5"]}"#,
    ] {
        hand_on("dns", "1.0.0", &format!(r#"{{"cniVersion":"1.0.0","ips":[]{dns}}}"#));
    }
}

#[test]
fn b5_an_interface_of_the_host_has_no_sandbox_and_some_have_no_address() {
    let interfaces =
        r#"[{"name":"cali1"},{"name":"tun0","sandbox":"/n"},{"name":"eth0","mac":"","sandbox":""}]"#;
    hand_on("bare", "0.3.1", &format!(r#"{{"cniVersion":"0.3.1","interfaces":{interfaces},"ips":[]}}"#));
}

#[test]
fn b6_what_1_1_0_has_added() {
    let result = r#"{"cniVersion":"1.1.0",
        "interfaces":[{"name":"net1","mac":"0a:00:00:00:00:01","mtu":9000,"sandbox":"/n","socketPath":"/v.sock","pciID":"0000:00:1f.6"}],
        "ips":[{"address":"192.0.2.7/31","interface":0}],
        "routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.6","mtu":1400,"advmss":1360,"priority":100,"table":7,"scope":253}]}"#;
    hand_on("extras", "1.1.0", result);
}

#[test]
fn b7_families_and_interfaces_keep_their_order() {
    for ips in [
        r#"[{"address":"2001:db8::5/64","gateway":"2001:db8::1","interface":0}]"#,
        r#"[{"address":"2001:db8::5/64","interface":1},{"address":"10.1.0.5/24","interface":0},{"address":"10.1.0.6/24"}]"#,
    ] {
        let interfaces = r#"[{"name":"net1","sandbox":"/n"},{"name":"eth0","sandbox":"/n"}]"#;
        hand_on(
            "order",
            "1.0.0",
            &format!(r#"{{"ips":{ips},"interfaces":{interfaces},"cniVersion":"1.0.0"}}"#),
        );
    }
}

#[test]
fn b9_numbers_escapes_and_repeated_keys_stay_as_they_are() {
    let result = r#"{"cniVersion":"1.0.0","a":9007199254740993,"b":-0.10e-7,"c":1E400,"d":"\u003cé\ud83d\ude00\/","d":2,
        "ips":[],"ips":[{"address":"10.0.0.1/8","x":18446744073709551616}]}"#;
    hand_on("numbers", "1.0.0", result);
}

#[test]
fn b9_of_two_results_the_last_counts() {
    let nowhere = Nowhere::new("two");
    let mut call = nowhere.call("u");
    call.prev_result = Some(r#"{"ips":[{"first":1}]},"prevResult":{"ips":[]}"#.to_owned());
    let answer = call.run("ADD");
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), "{\"ips\":[]}\n"));
}

#[test]
fn b10_a_result_without_addresses() {
    for result in ["{}", r#"{"cniVersion":"0.4.0"}"#, r#"{"cniVersion":"0.4.0","interfaces":[],"ips":[]}"#] {
        hand_on("empty", "0.4.0", result);
    }
}

#[test]
fn b12_nothing_lets_it_stand_alone() {
    let nowhere = Nowhere::new("alone");
    let mut call = nowhere.call("u").with("allowStandalone", json!(true));
    call.prev_result = None;
    assert!(call.fail("ADD", 7).contains("comes after one that makes the interface"));
}

/// The runtime types a result by the version that it tells of itself, so it works without us whatever that version is.
#[test]
fn b13_a_result_of_another_version_stops_pods_only_where_it_may() {
    let nowhere = Nowhere::new("other");
    for (configured, printed) in
        [("0.4.0", "0.3.1"), ("0.3.1", "1.0.0"), ("1.1.0", "0.4.0"), ("1.0.0", "1.1.0")]
    {
        let mut call = nowhere.call("u").with("cniVersion", json!(configured));
        call.prev_result = Some(bridge(printed));
        let said = call.add().stderr;
        assert!(said.contains(&format!("prevResult is of version {printed}")), "{said}");
        let message = call.with("failurePolicy", json!("fail")).fail("ADD", 1);
        assert!(message.contains(&format!("prevResult is of version {printed}")), "{message}");
    }
    for unknown in ["0.2.0", "2.0.0", "x"] {
        let mut call = nowhere.call("u");
        call.prev_result = Some(format!(r#"{{"cniVersion":"{unknown}","ips":[]}}"#));
        call.fail("ADD", 1);
    }
}

#[test]
fn b16_results_of_the_usual_primary_plugins() {
    for (plugin, version, result) in [
        (
            "ptp",
            "1.0.0",
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"vethab","mac":"0a:0b:0c:0d:0e:01"},{"name":"eth0","mac":"0a:0b:0c:0d:0e:02","sandbox":"/n"}],"ips":[{"interface":1,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#,
        ),
        (
            "macvlan",
            "0.4.0",
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","mac":"0a:0b:0c:0d:0e:03","sandbox":"/n"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.9/24","gateway":"192.0.2.1"}],"dns":{"nameservers":["192.0.2.53"]}}"#,
        ),
        (
            "calico",
            "0.3.1",
            r#"{"cniVersion":"0.3.1","interfaces":[{"name":"cali0123456789a"}],"ips":[{"version":"4","address":"10.244.1.7/32"}],"dns":{}}"#,
        ),
        (
            "cilium",
            "0.3.1",
            r#"{"cniVersion":"0.3.1","interfaces":[{"name":"eth0","mac":"0a:0b:0c:0d:0e:04","sandbox":"/n"}],"ips":[{"version":"4","interface":0,"address":"10.0.1.5/32","gateway":"10.0.1.254"}],"routes":[{"dst":"10.0.1.254/32"},{"dst":"0.0.0.0/0","gw":"10.0.1.254"}],"dns":{}}"#,
        ),
        ("flannel", "0.3.1", &bridge("0.3.1")),
        ("bridge", "1.1.0", &bridge("1.1.0")),
    ] {
        hand_on(plugin, version, result);
    }
}

/// A result with thousands of routes is as good as any.
#[test]
fn b7_a_large_result() {
    let nowhere = Nowhere::new("large");
    let routes: Vec<Value> =
        (0..20_000).map(|n| json!({"dst": format!("10.{}.{}.0/24", n / 250, n % 250)})).collect();
    let mut call: Call = nowhere.call("u");
    call.prev_result = Some(json!({"ips": [], "routes": routes}).to_string());
    call.add();
}
