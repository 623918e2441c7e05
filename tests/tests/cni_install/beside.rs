//! Beside other network plugins: configurations of the shape that they write, and installers that behave as theirs do.

use std::{fs, path::Path, time::Duration};

use balancing_core::view::PluginView;
use balancing_tests::*;
use serde_json::Value;

use crate::host::{Host, Kept, LATE, LIST, OURS, beside_of, rename_over, types};

/// Between two looks of an installer of others.
const LOOK: Duration = Duration::from_millis(10);

const CILIUM: &str = r#"
{
  "cniVersion": "0.3.1",
  "name": "cilium",
  "plugins": [
    {
       "type": "cilium-cni",
       "enable-debug": false,
       "log-file": "/var/run/cilium/cilium-cni.log"
    }
  ]
}
"#;

/// File, text and types of its plugins.
const PRIMARIES: [(&str, &str, &[&str]); 5] = [
    (
        "10-aws.conflist",
        r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "plugins": [
    {"name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001", "podSGEnforcingMode": "strict"},
    {"name": "egress-cni", "type": "egress-cni", "enabled": "false", "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00::ac:00/118"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}"#,
        &["aws-cni", "egress-cni", "portmap"],
    ),
    (
        "10-kindnet.conflist",
        r#"
{
	"cniVersion": "0.3.1",
	"name": "kindnet",
	"plugins": [
	{
		"type": "ptp",
		"ipMasq": false,
		"ipam": {
			"type": "host-local",
			"dataDir": "/run/cni-ipam-state",
			"routes": [ { "dst": "0.0.0.0/0" } ],
			"ranges": [ [ { "subnet": "10.244.0.0/24" } ] ]
		},
		"mtu": 1500
	},
	{
		"type": "portmap",
		"capabilities": {"portMappings": true}
	}
	]
}
"#,
        &["ptp", "portmap"],
    ),
    (
        "10-calico.conflist",
        r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "calico", "log_level": "info", "datastore_type": "kubernetes", "mtu": 0, "nodename_file_optional": false,
     "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}"#,
        &["calico", "bandwidth", "portmap"],
    ),
    (
        "10-flannel.conflist",
        r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#,
        &["flannel", "portmap"],
    ),
    (
        "00-multus.conf",
        r#"{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","logLevel":"error","kubeconfig":"/etc/cni/net.d/multus.d/multus.kubeconfig","delegates":[{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}]}"#,
        &["multus"],
    ),
];

/// Cilium with `cni-exclusive`: files of others get another name, and its own one is written again when it differs.
fn cilium(net_dir: &Path) {
    let own = net_dir.join("05-cilium.conflist");
    for entry in fs::read_dir(net_dir).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let is_conf = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        if is_conf && path != own && path.is_file() {
            fs::rename(&path, net_dir.join(format!("{name}.cilium_bak"))).ok();
        }
    }
    if fs::read_to_string(&own).is_ok_and(|text| text != CILIUM) {
        rename_over(&own, CILIUM);
    }
}

#[test]
fn g25_cilium_exclusive_takes_a_copy_and_an_entry_but_no_drop_in() {
    if !require_kernel() {
        return;
    }
    for mode in ["inline", "copy"] {
        let host = Host::new();
        host.write("05-cilium.conflist", CILIUM);
        let kept = Kept::start(host, &[&format!("--cni-mode={mode}")]);
        kept.wait_chain(&["cilium-cni"]);
        let net_dir = kept.host.path("net.d");
        beside_of(
            LOOK,
            || cilium(&net_dir),
            || {
                let view = kept.wait(|view| view.fights == 1 && !view.in_force);
                let problem = view.problem.unwrap();
                assert!(
                    problem.contains("again and again") && problem.contains("--cni-mode drop-in"),
                    "{problem}"
                );
            },
        );
    }
    let host = Host::new();
    host.write("05-cilium.conflist", CILIUM);
    let kept = Kept::start(host, &["--cni-mode=drop-in"]);
    let net_dir = kept.host.path("net.d");
    let view = kept.wait_chain(&["cilium-cni"]);
    beside_of(
        LOOK,
        || cilium(&net_dir),
        || {
            // Cilium starts anew.
            rename_over(&net_dir.join("05-cilium.conflist"), &CILIUM.replace("false", "true"));
            wait_until(LATE, || fs::read_to_string(net_dir.join("05-cilium.conflist")).unwrap() == CILIUM);
        },
    );
    assert_eq!(kept.wait_chain(&["cilium-cni"]).writes, view.writes, "nobody is in the other's way");
}

/// A list with a plugin of that type at its end and nowhere else.
fn with_last(text: &str, kind: &str) -> String {
    let mut list: Value = serde_json::from_str(text).unwrap();
    let plugins = list["plugins"].as_array_mut().unwrap();
    plugins.retain(|plugin| plugin["type"] != kind);
    plugins.push(serde_json::json!({ "type": kind }));
    serde_json::to_string_pretty(&list).unwrap()
}

/// Whether another installer would write a list.
type Wants = dyn Fn(&str) -> bool + Sync;

#[test]
fn g26_installers_that_want_to_be_last_come_to_rest_beside_ours() {
    if !require_kernel() {
        return;
    }
    // Istio's looks whether it is in the list; Linkerd's makes itself the last whenever somebody has written.
    let istio = |text: &str| !types(text).iter().any(|kind| kind == "istio-cni");
    let linkerd = |text: &str| types(text).last().is_some_and(|kind| kind != "linkerd-cni");
    let others: [(&str, &Wants); 2] = [("istio-cni", &istio), ("linkerd-cni", &linkerd)];
    for (kind, wants) in others {
        let kept = Kept::start(Host::with_list(), &[]);
        kept.wait_chain(&["bridge"]);
        let path = kept.host.conf("10-net.conflist");
        let look = || {
            let text = fs::read_to_string(&path).unwrap();
            if !types(&text).is_empty() && wants(&text) {
                rename_over(&path, &with_last(&text, kind));
            }
        };
        beside_of(LOOK, look, || {
            let both =
                |chain: &[String]| [OURS, kind].iter().all(|kind| chain.iter().any(|found| found == kind));
            let writes = kept.wait(|view| view.in_force && both(&view.chain)).writes;
            // The primary writes its list again; then there is rest.
            rename_over(&path, LIST);
            let rests =
                || fs::read_to_string(&path).is_ok_and(|text| !types(&text).is_empty() && !wants(&text));
            let rest =
                |view: &PluginView| view.in_force && both(&view.chain) && view.writes > writes && rests();
            let after = kept.wait(rest);
            assert!(after.writes <= writes + 2, "{after:?}");
            // What comes next is the agent's own look, which finds nothing to do.
            kept.host.write("note", "something happens");
            assert_eq!((kept.wait(rest).writes, after.fights), (after.writes, 0));
        });
    }
}

#[test]
fn g27_what_primaries_write_at_their_restart_gets_ours_again() {
    if !require_kernel() {
        return;
    }
    for (file, text, plugins) in PRIMARIES {
        let kept = Kept::start(Host::new(), &[]);
        kept.host.write(file, text);
        kept.wait_chain(plugins);
        let writes = kept.view().unwrap().writes;
        let changed = text.replace("0.3.1", "0.4.0").replace("\"9001\"", "\"1500\"");
        assert_ne!(changed, text);
        rename_over(&kept.host.conf(file), &changed);
        eventually_within(LATE, || match kept.view() {
            Ok(view) if view.in_force && view.writes > writes => Ok(()),
            other => Err(format!("{file}: {other:?}")),
        });
        kept.wait_chain(plugins);
        // Taken out, what the primary has written is back.
        drop(kept.node);
        kept.host.succeed("uninstall", &[]);
        assert_eq!(kept.host.read(file), changed, "{file}");
    }
}
