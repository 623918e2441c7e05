use super::*;

fn with(keys: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"balancing-cni"{keys}}}"#)
}

fn code(input: &str) -> u32 {
    Config::parse(input.as_bytes()).unwrap_err().code as u32
}

fn prev(text: &str) -> Result<String, CniError> {
    let input = with(&format!(r#","failurePolicy":"fail","prevResult":{text}"#));
    Config::parse(input.as_bytes()).unwrap().prev_result().map(|previous| previous.result.get().to_owned())
}

#[test]
fn defaults() {
    let input = with("");
    let config = Config::parse(input.as_bytes()).unwrap();
    assert_eq!(config.failure_policy, FailurePolicy::Ignore);
    assert_eq!(config.run_dir, Path::new("/run/balancing"));
    assert_eq!((config.bpffs, config.cgroup_root, config.cgroup_path), (None, None, None));
    assert_eq!((config.exclude_namespaces, config.annotations), (None, None));
}

#[test]
fn a19_c13_every_key() {
    let input = with(
        r#","failurePolicy":"fail","excludeNamespaces":["kube-system"],"bpffs":"/b","cgroupRoot":"/c",
           "runDir":"/r","logLevel":"debug","runtimeConfig":{"cgroupPath":"/kubepods/pod1","ips":[],
           "io.kubernetes.cri.pod-annotations":{"a":"b"}},"args":{"cni":{}},"ipMasq":true,"capabilities":{}"#,
    );
    let config = Config::parse(input.as_bytes()).unwrap();
    assert_eq!(config.failure_policy, FailurePolicy::Fail);
    assert_eq!(config.exclude_namespaces, Some(BTreeSet::from(["kube-system".to_owned()])));
    assert_eq!((config.bpffs.as_deref(), config.run_dir.as_path()), (Some(Path::new("/b")), Path::new("/r")));
    assert_eq!(config.cgroup_root.as_deref(), Some(Path::new("/c")));
    assert_eq!(config.log_level, Level::Debug);
    assert_eq!(config.cgroup_path.as_deref(), Some("/kubepods/pod1"));
    assert_eq!(config.annotations.unwrap()["a"], "b");
}

#[test]
fn null_is_absent() {
    let input = with(r#","failurePolicy":null,"bpffs":null,"runtimeConfig":null,"excludeNamespaces":null"#);
    assert!(Config::parse(input.as_bytes()).is_ok());
    let input = with(r#","runtimeConfig":{"cgroupPath":null,"io.kubernetes.cri.pod-annotations":null}"#);
    assert!(Config::parse(input.as_bytes()).is_ok());
}

#[test]
fn a20_a_wrong_value_names_its_key() {
    for (key, value) in [
        ("failurePolicy", "1"),
        ("failurePolicy", "\"Fail\""),
        ("excludeNamespaces", "\"kube-system\""),
        ("excludeNamespaces", "[1]"),
        ("bpffs", "7"),
        ("bpffs", "\"relative\""),
        ("cgroupRoot", "\"\""),
        ("runDir", "[]"),
        ("logLevel", "\"loud\""),
        ("runtimeConfig", "[]"),
        ("runtimeConfig", r#"{"cgroupPath":[]}"#),
    ] {
        let input = with(&format!(r#","{key}":{value}"#));
        let config = Config::parse(input.as_bytes()).unwrap();
        let [error] = &config.problems[..] else { panic!("{key}={value}: {:?}", config.problems) };
        assert_eq!(error.code, Code::Config, "{key}={value}");
        assert!(error.to_string().contains(key) || error.to_string().contains("cgroupPath"), "{error}");
    }
    let error = Config::parse(with(r#","name":7"#).as_bytes()).unwrap_err();
    assert!(error.code == Code::Config && error.to_string().contains("name"), "{error}");
}

#[test]
fn a19_a_misspelt_key_is_told() {
    let input = with(r#","excludeNamespace":["a"],"ipam":{},"cni.dev/attachments":[]"#);
    let config = Config::parse(input.as_bytes()).unwrap();
    assert_eq!((config.unknown, config.problems.len()), (vec!["excludeNamespace".to_owned()], 0));
}

#[test]
fn c11_odd_annotations_are_passed_over() {
    let input = with(r#","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}"#);
    assert_eq!(Config::parse(input.as_bytes()).unwrap().annotations, None);
}

#[test]
fn a12_versions() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let input = format!(r#"{{"cniVersion":"{version}","name":"net"}}"#);
        assert_eq!(Config::parse(input.as_bytes()).unwrap().version.as_str(), version);
        assert_eq!(version_of(input.as_bytes()).unwrap().as_str(), version);
    }
    for version in ["0.1.0", "0.2.0", "1.2.0", "2.0.0", "foo", ""] {
        let input = format!(r#"{{"cniVersion":"{version}","name":"net"}}"#);
        let error = Config::parse(input.as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::Version, "{version}");
        assert!(error.to_string().contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
        assert_eq!(version_of(input.as_bytes()), None);
    }
    assert_eq!(code(r#"{"name":"net"}"#), 1, "no version means 0.1.0");
    assert_eq!(code(r#"{"cniVersion":1,"name":"net"}"#), 6);
}

#[test]
fn a11_names_are_checked_since_0_4_0() {
    for name in [r#""name":"-a""#, r#""name":"a/b""#, r#""name":"""#, r#""x":0"#] {
        assert_eq!(code(&format!(r#"{{"cniVersion":"0.4.0",{name}}}"#)), 7, "{name}");
        assert!(Config::parse(format!(r#"{{"cniVersion":"0.3.1",{name}}}"#).as_bytes()).is_ok(), "{name}");
    }
}

#[test]
fn a13_what_is_no_object_cannot_be_decoded() {
    for input in ["", "{", "[]", "null", "\"x\"", "{}x", "{\"a\":}"] {
        assert_eq!(code(input), 6, "{input}");
        assert_eq!(version_of(input.as_bytes()), None);
    }
    assert_eq!(Config::parse(b"{\"a\":\"\xff\"}").unwrap_err().code, Code::Decode);
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_eq!(code(&deep), 6);
}

#[test]
fn b9_prev_result_is_untouched() {
    let text = r#"{ "ips":[ {"address":"10.0.0.1/24","x":1e400} ],"big":18446744073709551617, "ü":"\u00e9",
        "dns":{},"dns":{}, "cniVersion" : "1.0.0" }"#;
    assert_eq!(prev(text).unwrap(), text);
    assert_eq!(prev("{}").unwrap(), "{}");
}

#[test]
fn b11_b14_prev_result_has_to_be_one() {
    let input = with("");
    assert_eq!(Config::parse(input.as_bytes()).unwrap().prev_result().unwrap_err().code, Code::Config);
    for (text, code) in [
        ("null", 6),
        ("\"x\"", 6),
        ("[]", 6),
        (r#"{"cniVersion":7}"#, 6),
        (r#"{"cniVersion":"0.4.0"}"#, 1),
        (r#"{"ip4":{"ip":"10.0.0.1/24"}}"#, 1),
    ] {
        assert_eq!(prev(text).unwrap_err().code as u32, code, "{text}");
    }
}

#[test]
fn f23_valid_attachments_under_either_key() {
    let valid = |keys: &str| {
        let input = with(keys);
        let valid = Config::parse(input.as_bytes()).unwrap().valid_attachments()?.expect("a list");
        Ok::<_, CniError>(
            valid.iter().map(|(container, ifname)| format!("{container}/{ifname}")).collect::<Vec<_>>(),
        )
    };
    let a = r#"[{"containerID":"a","ifname":"eth0"}]"#;
    let b = r#"[{"containerID":"b","ifname":"eth0","extra":1}]"#;
    assert_eq!(valid(&format!(r#","cni.dev/valid-attachments":{a}"#)).unwrap(), ["a/eth0"]);
    assert_eq!(valid(&format!(r#","cni.dev/attachments":{a}"#)).unwrap(), ["a/eth0"]);
    let both = format!(r#","cni.dev/attachments":{a},"cni.dev/valid-attachments":{b}"#);
    assert_eq!(valid(&both).unwrap(), ["a/eth0", "b/eth0"]);
    for nothing in ["null", "[]"] {
        let keys = format!(r#","cni.dev/valid-attachments":{nothing}"#);
        assert!(valid(&keys).unwrap().is_empty(), "{nothing}");
    }
    let input = with("");
    assert_eq!(Config::parse(input.as_bytes()).unwrap().valid_attachments().unwrap(), None, "not known");
    for wrong in ["{}", "\"a\"", "[1]", r#"[{"containerID":"a"}]"#] {
        let keys = format!(r#","cni.dev/valid-attachments":{wrong}"#);
        assert_eq!(valid(&keys).unwrap_err().code, Code::Config, "{wrong}");
    }
}
