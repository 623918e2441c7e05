use std::{fs, time::Instant};

use super::*;
use crate::{
    entry::Entry,
    fixtures::{Host, LIST},
    keeper::Keeper,
};

#[test]
fn h23_beside_a_keeper_nothing_is_uninstalled() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let mut keeper = Keeper::new(host.settings());
    keeper.round(Instant::now());
    keeper.round(Instant::now());
    let refused = host.settings().uninstall(|| None).unwrap_err().to_string();
    assert!(refused.contains("--install-cni"), "{refused}");
    assert!(host.settings().standing().is_ready());
    drop(keeper);
    assert_eq!(host.settings().uninstall(|| None).unwrap(), []);
}

#[test]
fn uninstalled_nothing_is_left_but_a_binary_that_is_called() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = host.settings();
    settings.install().unwrap();
    fs::create_dir_all(host.path("var/lib/cni/results")).unwrap();
    let cached = host.path("var/lib/cni/results/net-a-eth0");
    fs::write(&cached, "unreadable").unwrap();
    assert_eq!(settings.uninstall(|| None).unwrap(), [Held::Results(vec!["net-a-eth0".to_owned()])]);
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    assert!(host.path("bin").join(PLUGIN).exists());
    fs::remove_file(&cached).unwrap();
    assert!(settings.uninstall(|| None).unwrap().is_empty());
    assert!(!host.path("bin").join(PLUGIN).exists());
    // Also when nothing is there at all, if the runtime tells so.
    fs::remove_dir_all(host.path("net.d")).unwrap();
    fs::remove_dir_all(host.path("bin")).unwrap();
    assert!(settings.uninstall(|| Some(Told::Without { is_containerd_alone: false })).unwrap().is_empty());
}

#[test]
fn h21_a_directory_of_configurations_that_is_not_there_keeps_the_binary() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    // The directory is not mounted into the container that asks, or it is another one.
    let elsewhere = Settings { net_dir: host.path("missing"), ..host.settings() };
    let held = elsewhere.uninstall(|| None).unwrap();
    let told = held.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert!(
        held.len() == 1 && told.contains("missing is not there") && told.contains("--cni-net-dir"),
        "{told}"
    );
    assert!(host.path("bin").join(PLUGIN).exists());
    assert_eq!(elsewhere.uninstall(|| Some(Told::Without { is_containerd_alone: false })).unwrap(), []);
    assert!(!host.path("bin").join(PLUGIN).exists());
}

#[test]
fn h22_drop_ins_of_others_that_name_ours_keep_the_binary() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    fs::create_dir(host.path("net.d/net")).unwrap();
    for (name, text) in
        [("50-ours.conf", Entry::default().to_json()), ("60-x.conf", r#"{"type":"x"}"#.to_owned())]
    {
        fs::write(host.path("net.d/net").join(name), text).unwrap();
    }
    assert_eq!(
        host.settings().uninstall(|| None).unwrap(),
        [Held::Named(vec!["net/50-ours.conf".to_owned()])]
    );
    assert!(host.path("bin").join(PLUGIN).exists());
    fs::rename(host.path("net.d/net/50-ours.conf"), host.path("net.d/net/50-ours.bak")).unwrap();
    assert_eq!(host.settings().uninstall(|| None).unwrap(), []);
    assert!(!host.path("bin").join(PLUGIN).exists());
}

#[test]
fn h21_what_cannot_be_seen_keeps_the_binary() {
    let host = Host::new();
    let results = host.path("var/lib/cni/results");
    let crio = Settings { runtime: Runtime::Crio, ..host.settings() };
    let containerd = host.settings();
    let told = |is_containerd_alone| Some(Told::Without { is_containerd_alone });
    let held = |settings: &Settings, told: Option<Told>| {
        let held = settings.uninstall(|| told).unwrap();
        held.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    // The directory is not mounted into the container that asks.
    fs::remove_dir(&results).unwrap();
    // Also where somebody says that it is containerd, and it does not, or another runtime is there, too.
    for (settings, told) in
        [(&crio, None), (&crio, told(true)), (&containerd, None), (&containerd, told(false))]
    {
        let held = held(settings, told);
        assert!(held.contains("cannot be seen") && held.contains("var/lib/cni/results"), "{held}");
        assert!(held.contains("mount that directory") && held.contains("create it, empty"), "{held}");
        assert!(host.path("bin").join(PLUGIN).exists());
    }
    // It is no directory: also with containerd nothing is proved.
    fs::write(&results, "").unwrap();
    assert!(held(&containerd, told(true)).contains("cannot be seen"));
    fs::remove_file(&results).unwrap();
    assert_eq!(held(&containerd, told(true)), "");
    host.settings().install().unwrap();
    fs::create_dir(&results).unwrap();
    assert_eq!(held(&crio, None), "");
    assert!(!host.path("bin").join(PLUGIN).exists());
}

#[test]
fn h10_pods_of_containerd_do_not_need_the_binary() {
    let host = Host::new();
    let result =
        |args: &str| format!(r#"{{"config":{{"plugins":[{{"type":"{PLUGIN}"}}]}},"cniArgs":{args}}}"#);
    let of_a_pod = result(r#"[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web"],["K8S_POD_UID","u"]]"#);
    let of_podman = result("[]");
    let crio = Settings { runtime: Runtime::Crio, ..host.settings() };
    let containerd = host.settings();
    let told = |is_containerd_alone| Some(Told::Without { is_containerd_alone });
    for (settings, told, text, held) in [
        (&crio, told(true), &of_a_pod, "there is no /run/crio: net-a-eth0 (shop/web)"),
        // Somebody says that it is containerd, and it does not, or another runtime is there, too.
        (&containerd, None, &of_a_pod, "there is no /run/crio: net-a-eth0 (shop/web)"),
        (&containerd, told(false), &of_a_pod, "there is no /run/crio: net-a-eth0 (shop/web)"),
        // Of something else beside the runtime, whose DEL goes by its configuration.
        (&containerd, told(true), &of_podman, "of containers that are no more: net-a-eth0"),
        (&containerd, told(true), &of_a_pod, ""),
    ] {
        fs::write(host.list(), LIST).unwrap();
        host.settings().install().unwrap();
        let results = host.path("var/lib/cni/results");
        fs::create_dir_all(&results).unwrap();
        fs::write(results.join("net-a-eth0"), text).unwrap();
        let told = settings.uninstall(|| told).unwrap();
        let told = told.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(told.ends_with(held) && told.is_empty() == held.is_empty(), "{told}");
        assert_eq!(host.path("bin").join(PLUGIN).exists(), !held.is_empty(), "{told}");
    }
}

#[test]
fn h22_what_still_names_ours_keeps_the_binary() {
    let host = Host::new();
    let ours = format!("{{\"type\":\"{PLUGIN}\"}}");
    let delegates =
        format!(r#"{{"cniVersion":"0.3.1","type":"multus","delegates":[{{"plugins":[{ours}]}}]}}"#);
    let alone = LIST.replace(r#"{"type":"bridge"}"#, &ours);
    for (name, text) in [
        ("00-multus.conf", &delegates[..]),
        ("20-x.conflist", &alone),
        ("30-y.conf", &alone[..alone.len() - 2]),
    ] {
        fs::write(host.list(), LIST).unwrap();
        host.settings().install().unwrap();
        let file = host.path("net.d").join(name);
        // Somebody writes it while the runtime is awaited.
        let write = || {
            fs::write(&file, text).unwrap();
            None
        };
        assert_eq!(host.settings().uninstall(write).unwrap(), [Held::Named(vec![name.to_owned()])]);
        assert!(host.path("bin").join(PLUGIN).exists(), "{name}");
        // A backup is nothing that a runtime reads.
        fs::rename(&file, file.with_extension("bak")).unwrap();
        assert_eq!(host.settings().uninstall(|| None).unwrap(), []);
        assert!(!host.path("bin").join(PLUGIN).exists(), "{name}");
    }
}

#[test]
fn h22_what_the_runtime_has_loaded_or_just_remembered_keeps_the_binary() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    assert_eq!(host.settings().uninstall(|| Some(Told::Held(Held::Loaded))).unwrap(), [Held::Loaded]);
    assert!(host.path("bin").join(PLUGIN).exists());
    // The ADD of a pod ends after ours left the list.
    let results = host.path("var/lib/cni/results");
    let remember = || {
        assert!(!fs::read_to_string(host.list()).unwrap().contains(PLUGIN));
        fs::create_dir_all(&results).unwrap();
        fs::write(results.join("net-a-eth0"), "{").unwrap();
        None
    };
    let held = host.settings().uninstall(remember).unwrap();
    assert_eq!(held, [Held::Results(vec!["net-a-eth0".to_owned()])]);
    assert!(host.path("bin").join(PLUGIN).exists());
}
