use super::*;
use crate::listen::ListenAddress;

fn action(args: &[&str]) -> Result<Action, ConfigError> {
    Cli::try_parse_from([&["balancing-agent"], args].concat()).unwrap().into_action()
}

#[test]
fn every_wrong_value_is_in_one_message() {
    let error = action(&[
        "--source=ftp:x",
        "--role=boss",
        "--scope=some",
        "--redirect-qos-limit=-1",
        "--max-connections=70000",
        "--max-frontends=0",
        "--bpffs=bpf",
        "--log-level=loud",
        "--http=localhost",
        "--metrics=:70000",
    ])
    .unwrap_err()
    .to_string();
    for flag in [
        "--source ftp:x",
        "--role boss",
        "--scope some",
        "--redirect-qos-limit -1",
        "use 131072",
        "--max-frontends 0",
        "--bpffs bpf",
        "--log-level loud",
        "--http localhost: must be ADDRESS:PORT",
        "--metrics :70000: must be ADDRESS:PORT",
    ] {
        assert!(error.contains(flag), "{flag} is missing in: {error}");
    }
}

#[test]
fn run_is_the_default_and_may_be_named() {
    for args in [&["--source=dir:/x", "--node-name=a"][..], &["run", "--source=dir:/x", "--node-name=a"]] {
        let Ok(Action::Run(config)) = action(args) else { panic!("{args:?}") };
        assert_eq!(config.source, SourceConfig::Dir("/x".into()));
        assert_eq!(config.settings.node_name, "a");
    }
    assert!(matches!(action(&["cleanup"]), Ok(Action::Cleanup(_))));
    assert!(matches!(action(&["crds"]), Ok(Action::Crds(None))));
    assert!(matches!(action(&["crds", "balancingpolicies"]), Ok(Action::Crds(Some(_)))));
}

#[test]
fn the_api_server_is_the_default_source() {
    let Ok(Action::Run(config)) = action(&["--namespace=a-b", "--kubeconfig=/k"]) else { panic!() };
    let kube = SourceConfig::Kube { kubeconfig: Some("/k".into()), namespace: Some("a-b".into()) };
    assert_eq!((config.source, config.settings.cluster_pods), (kube, ClusterPods::Listed));
    let Ok(Action::Run(config)) = action(&["--source=dir:/x"]) else { panic!() };
    assert_eq!(config.settings.cluster_pods, ClusterPods::Selected);
    for wrong in ["-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
        assert!(action(&[&format!("--namespace={wrong}")]).is_err(), "{wrong}");
    }
}

#[test]
fn listeners_are_on_unless_they_are_switched_off() {
    let listen = |args: &[&str]| match action(&[&["--source=dir:/x", "--node-name=a"], args].concat()) {
        Ok(Action::Run(config)) => config.listen,
        other => panic!("{other:?}"),
    };
    let default = listen(&[]);
    assert_eq!(default.http.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:5810"));
    assert_eq!(default.metrics, Some(ListenAddress::Every(5811)));
    let six = listen(&["--http=[::1]:0", "--metrics=10.0.0.1:9100"]);
    assert_eq!(six.http.map(|a| a.to_string()).as_deref(), Some("[::1]:0"));
    assert_eq!(six.metrics.map(|a| a.to_string()).as_deref(), Some("10.0.0.1:9100"));
    assert_eq!(listen(&["--http=off", "--metrics="]), Listen::default());
    for wrong in [":", ":x", ":+1", "1", "a:1", "::1:80", "10.0.0.1", "Off"] {
        assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong}");
    }
}

#[test]
fn numbers_with_a_sign_and_names_of_no_node_are_wrong_values() {
    let error = action(&["--max-affinity", "-1", "--redirect-qos-limit", "-2", "--node-name", "A B"])
        .unwrap_err()
        .to_string();
    for part in [
        "--max-affinity -1: must be a number from 1",
        "--redirect-qos-limit -2",
        "--node-name A B: must be a DNS",
    ] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[test]
fn paths_of_the_installer_are_absolute() {
    let flags = ["--cni-net-dir", "--cni-bin-dir", "--cni-binary", "--host-root", "--cri-socket"];
    let wrong: Vec<String> = flags.iter().map(|flag| format!("{flag}=../x")).collect();
    let args: Vec<&str> = ["cni", "install"].into_iter().chain(wrong.iter().map(String::as_str)).collect();
    let error = action(&args).unwrap_err().to_string();
    for flag in flags {
        assert!(error.contains(&format!("{flag} ../x: must be an absolute path")), "{error}");
    }
}

#[test]
fn g39_for_openshift_directories_are_given() {
    let error = action(&["cni", "install", "--cni-preset=openshift"]).unwrap_err().to_string();
    assert!(error.contains("--cni-net-dir") && error.contains("--cni-bin-dir"), "{error}");
    assert!(!error.contains("   "), "{error}");
    let given = ["--cni-net-dir=/n", "--cni-bin-dir=/b"];
    assert!(action(&["cni", "install", given[0], given[1]]).is_ok());
}

#[test]
fn g39_on_a_platform_with_a_runtime_of_its_own_no_other_is_asked() {
    let sockets = |preset: &str| match action(&["cni", "install", "--host-root=/h", preset]) {
        Ok(Action::Cni(_, config, _)) => config.sockets,
        other => panic!("{other:?}"),
    };
    let own = PathBuf::from("/h/run/k3s/containerd/containerd.sock");
    for platform in ["k3s", "k3d", "rke2"] {
        assert_eq!(sockets(&format!("--cni-preset={platform}")), std::slice::from_ref(&own));
    }
    assert!(!sockets("--cni-preset=standard").contains(&own));
}

#[test]
fn two_listeners_do_not_share_a_port() {
    for (http, metrics) in [(":5811", ":5811"), ("127.0.0.1:5811", ":5811"), ("10.0.0.1:1", "10.0.0.1:1")] {
        let args = [format!("--http={http}"), format!("--metrics={metrics}")];
        for command in ["run", "controller"] {
            let error = action(&[command, &args[0], &args[1]]).unwrap_err().to_string();
            assert!(error.contains(&format!("--http {http} and --metrics {metrics}")), "{error}");
        }
    }
    for (http, metrics) in [("127.0.0.1:0", "127.0.0.1:0"), ("10.0.0.1:1", "10.0.0.2:1"), ("off", ":5811")] {
        assert!(
            action(&[&format!("--http={http}"), &format!("--metrics={metrics}")]).is_ok(),
            "{http} {metrics}"
        );
    }
}

#[test]
fn help_tells_the_default_of_every_capacity() {
    let mut command = <Cli as clap::CommandFactory>::command();
    let help = command.render_long_help().to_string();
    let sizes = Sizes::default();
    for (flag, default) in [
        ("--max-frontends", sizes.frontends),
        ("--max-backends", sizes.backends),
        ("--max-connections", sizes.connections),
        ("--max-affinity", sizes.affinity),
        ("--max-skips", sizes.skips),
        ("--max-qos-policies", sizes.qos),
        ("--max-policy-names", sizes.policies),
    ] {
        let (_, text) = help.split_once(flag).unwrap();
        let text = text.split("\n      --").next().unwrap();
        assert!(text.contains(&format!("default: {default}")), "{flag}: {text}");
    }
}

#[test]
fn only_a_host_outside_with_an_api_server_keeps_a_state() {
    let state = |args: &[&str]| match action(args) {
        Ok(Action::Run(config)) => config.place.state_dir,
        Ok(Action::Cleanup(place)) => place.state_dir,
        other => panic!("{other:?}"),
    };
    let default = Some(PathBuf::from("/var/lib/balancing"));
    assert_eq!(state(&["--role=external"]), default);
    assert_eq!(state(&["cleanup"]), default);
    assert_eq!(state(&["--role=external", "--state-dir=/x"]), Some("/x".into()));
    for none in [
        &["--role=node"][..],
        &["--role=external", "--state-dir=off"],
        &["--role=external", "--source=dir:/x"],
    ] {
        assert_eq!(state(none), None, "{none:?}");
    }
    for wrong in [
        &["--role=node", "--state-dir=/x"][..],
        &["--role=external", "--source=dir:/x", "--state-dir=/x"],
        &["--role=external", "--state-dir=x"],
    ] {
        assert!(action(wrong).unwrap_err().to_string().contains("--state-dir"), "{wrong:?}");
    }
}
