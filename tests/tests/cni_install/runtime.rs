//! With a runtime that tells what it is and what it has loaded.

use balancing_tests::*;
use serde_json::json;

use crate::{
    cri::{Answers, Cri},
    host::{Host, Kept, LIST, OURS, said},
};

fn answers(name: &str, version: &str) -> Answers {
    Answers { name: name.to_owned(), version: version.to_owned(), ..Answers::default() }
}

/// `cniconfig` of containerd's verbose status, with a network of these plugins.
fn loaded(plugins: &[&str]) -> Option<String> {
    let plugins: Vec<_> =
        plugins.iter().map(|kind| json!({"Network": {"type": kind, "ipam": {}}, "Source": "{}"})).collect();
    let network = |name: &str, plugins| json!({"Config": {"Name": name, "CNIVersion": "0.3.1", "Plugins": plugins, "Source": "{}"}, "IFName": "eth0"});
    let loopback = network("cni-loopback", vec![json!({"Network": {"type": "loopback"}, "Source": "{}"})]);
    let config = json!({"PluginDirs": ["/opt/cni/bin"], "PluginConfDir": "/etc/cni/net.d", "PluginMaxConfNum": 1, "Prefix": "eth",
        "Networks": [loopback, network("net", plugins)]});
    Some(config.to_string())
}

/// The flag of the socket of a runtime on a host.
fn socket(host: &Host) -> String {
    format!("--cri-socket={}", host.path("run/cri.sock").display())
}

#[test]
fn g28_g29_the_runtimes_version_decides_about_drop_ins() {
    for (name, version, reads) in [
        ("containerd", "v2.1.4", true),
        ("containerd", "v2.0.6", false),
        ("containerd", "1.6.20", false),
        ("cri-o", "1.33.1", true),
        ("cri-o", "1.32.0", false),
    ] {
        let host = Host::with_list();
        let _cri = Cri::start(&host.path("run/cri.sock"), answers(name, version));
        host.succeed("install", &[&socket(&host)]);
        assert_eq!(host.conf("net/99-balancing.conf").exists(), reads, "{name} {version}");
        assert_eq!(host.types("10-net.conflist").len(), if reads { 1 } else { 2 }, "{name} {version}");
        let host = Host::with_list();
        let _cri = Cri::start(&host.path("run/cri.sock"), answers(name, version));
        let output = host.cni("install").args(["--cni-mode=drop-in", &socket(&host)]).output().unwrap();
        assert_eq!(output.status.success(), reads, "{name} {version}: {}", crate::host::said(&output));
    }
    for text in [LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\": true, \"name\""), LIST.to_owned()] {
        let is_single = text == LIST;
        let host = Host::new();
        let _cri = Cri::start(&host.path("run/cri.sock"), answers("containerd", "v2.1.4"));
        host.write("10-net.conflist", &text);
        if is_single {
            std::fs::remove_file(host.conf("10-net.conflist")).unwrap();
            host.write("10-net.conf", crate::host::SINGLE);
        }
        let said = host.fail("install", &[&socket(&host), "--cni-mode=drop-in"]);
        assert!(said.contains("a drop-in would not be read"), "{said}");
        host.succeed("install", &[&socket(&host)]);
        let file = if is_single { "10-net.conf.conflist" } else { "10-net.conflist" };
        assert_eq!(host.types(file), ["bridge", OURS]);
    }
}

#[test]
fn g40_ready_is_who_the_runtime_has_loaded() {
    if !require_kernel() {
        return;
    }
    let host = Host::with_list();
    let flag = socket(&host);
    let cri = Cri::start(&host.path("run/cri.sock"), answers("containerd", "1.7.28"));
    cri.set(|answers| {
        answers.config = loaded(&["bridge"]);
        answers.load_status = Some("\"OK\"".to_owned());
    });
    let kept = Kept::start(host, &[&flag]);
    let view = kept.wait(|view| {
        view.problem.as_ref().is_some_and(|why| why.contains("has loaded a network without it"))
    });
    assert!(!view.in_force, "{view:?}");
    assert!(kept.host.fail("status", &[&flag]).contains("restart the runtime"));
    let (status, body) = kept.readyz();
    assert!(
        status == 503 && body.contains("cni: the runtime has loaded a network without it (bridge)"),
        "{body}"
    );
    cri.set(|answers| answers.config = loaded(&["bridge", OURS]));
    kept.wait_chain(&["bridge"]);
    kept.host.succeed("status", &[&flag]);
    // A look that does not wait for an event finds what the runtime cannot load.
    cri.set(|answers| {
        answers.load_status = Some("\"cni config load failed: no network config found\"".to_owned())
    });
    kept.host.write("note", "something happens");
    kept.wait(|view| view.problem.as_ref().is_some_and(|why| why.contains("no network config found")));
    // One that is silent knows nothing worse than the files.
    drop(cri);
    kept.wait_chain(&["bridge"]);
}

#[test]
fn h13_a_runtime_that_restarts_changes_nothing() {
    if !require_kernel() {
        return;
    }
    let host = Host::with_list();
    let (path, flag) = (host.path("run/cri.sock"), socket(&host));
    let cri = Cri::start(&path, answers("containerd", "v2.1.4"));
    let kept = Kept::start(host, &[&flag]);
    let before = kept.wait_chain(&["bridge"]);
    assert!(kept.host.conf("net/99-balancing.conf").exists());
    drop(cri);
    // A round, which the agent's log does not tell of, is over when it has put back what was taken.
    std::fs::remove_file(kept.host.path("bin").join(OURS)).unwrap();
    let while_down = kept.wait(|view| view.in_force && view.writes > before.writes);
    assert_eq!(while_down.writes, before.writes + 1, "the binary only");
    assert_eq!(kept.host.read("10-net.conflist"), LIST);
    // It comes back as an older one: what it does not read goes.
    let _cri = Cri::start(&path, answers("containerd", "1.7.28"));
    kept.wait(|view| view.in_force && view.writes > while_down.writes);
    assert_eq!(kept.host.types("10-net.conflist"), ["bridge", OURS]);
    assert!(!kept.host.conf("net").exists());
}

#[test]
fn h22_a_runtime_that_has_it_loaded_keeps_the_binary() {
    let host = Host::with_list();
    let flag = socket(&host);
    host.succeed("install", &[&flag]);
    let cri = Cri::start(&host.path("run/cri.sock"), answers("containerd", "1.7.28"));
    cri.set(|answers| answers.config = loaded(&["bridge", OURS]));
    let told = said(&host.succeed("uninstall", &[&flag]));
    assert!(told.contains("its binary stays") && told.contains("restart the runtime"), "{told}");
    assert_eq!(host.read("10-net.conflist"), LIST);
    assert_eq!(host.names("bin"), [OURS]);
    cri.set(|answers| answers.config = loaded(&["bridge"]));
    host.succeed("uninstall", &[&flag]);
    assert!(host.names("bin").is_empty());
}

#[test]
fn h10_containerd_alone_proves_that_its_pods_do_not_need_the_binary() {
    let rows = [("auto", true), ("auto", false), ("named", true), ("named", false)];
    for (flag, stays) in rows {
        let host = Host::with_list();
        host.succeed("install", &["--cri-socket=off"]);
        let results = host.path("var/lib/cni/results");
        std::fs::create_dir_all(&results).unwrap();
        let args = json!([["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "u"]]);
        let result = json!({"config": {"plugins": [{"type": OURS}]}, "cniArgs": args});
        std::fs::write(results.join("net-a-eth0"), result.to_string()).unwrap();
        let start = |name: &str, answers| {
            let socket = host.path("run").join(name);
            std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
            Cri::start(&socket, answers)
        };
        let cri = start("containerd/containerd.sock", answers("containerd", "1.7.28"));
        cri.set(|answers| answers.config = loaded(&["bridge"]));
        // That of the other runtime lies where the kubelet may use it.
        let _other = stays.then(|| start("crio/crio.sock", answers("cri-o", "1.33.1")));
        let named = host.path("run/containerd/containerd.sock").display().to_string();
        let socket = if flag == "named" { &named } else { flag };
        let told = said(&host.succeed("uninstall", &[&format!("--cri-socket={socket}")]));
        assert_eq!(told.contains("net-a-eth0 (default/web)"), stays, "{flag}: {told}");
        assert_eq!(host.names("bin").is_empty(), !stays, "{told}");
    }
}

#[test]
fn h22_a_runtime_that_does_not_answer_keeps_the_binary() {
    let host = Host::with_list();
    let flag = socket(&host);
    host.succeed("install", &[&flag]);
    // Its socket is there, and nobody listens.
    drop(Cri::start(&host.path("run/cri.sock"), answers("containerd", "1.7.28")));
    let told = said(&host.succeed("uninstall", &[&flag]));
    assert!(told.contains("its binary stays") && told.contains("cannot connect to the runtime"), "{told}");
    assert_eq!(host.read("10-net.conflist"), LIST);
    assert_eq!(host.names("bin"), [OURS]);
    host.succeed("uninstall", &["--cri-socket=off"]);
    assert!(host.names("bin").is_empty());
}

#[test]
fn h21_a_missing_directory_is_no_matter_where_the_runtime_tells() {
    let host = Host::with_list();
    let flag = socket(&host);
    host.succeed("install", &[&flag]);
    let cri = Cri::start(&host.path("run/cri.sock"), answers("containerd", "1.7.28"));
    cri.set(|answers| answers.config = loaded(&["bridge"]));
    std::fs::remove_dir_all(host.path("net.d")).unwrap();
    host.succeed("uninstall", &[&flag]);
    assert!(host.names("bin").is_empty());
    std::fs::remove_dir_all(host.path("bin")).unwrap();
    let told = said(&host.succeed("uninstall", &[&flag]));
    assert!(told.contains("no binary is removed") && told.contains("--cni-bin-dir"), "{told}");
}
