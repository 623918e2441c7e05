use super::*;

const OURS: &str = r#"{"type":"balancing-cni"}"#;
const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
const SINGLE: &str = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge"}"#;
const RUNTIMES: [Runtime; 2] = [Runtime::Containerd, Runtime::Crio];
const MODES: [Mode; 3] = [Mode::Inline, Mode::DropIn, Mode::Copy];

fn directory(files: &[(&str, &str)]) -> Directory {
    let mut directory = Directory::default();
    for (name, text) in files {
        put(&mut directory.files, name, (*text).to_owned());
    }
    directory
}

fn wanted(mode: Mode, runtime: Runtime) -> Wanted {
    Wanted { mode, runtime, entry: OURS.to_owned(), place: Place::Last }
}

/// The directory once a plan was carried out. A second plan must be empty.
fn made(directory: &Directory, wanted: &Wanted) -> Directory {
    let after = directory.after(&plan(directory, wanted).unwrap());
    assert_eq!(plan(&after, wanted), Ok(Vec::new()), "{after:#?}");
    after
}

/// How often ours is in what pods get.
fn count(directory: &Directory, runtime: Runtime) -> usize {
    directory.chain(runtime).unwrap().iter().filter(|kind| *kind == PLUGIN).count()
}

#[test]
fn every_way_ends_with_ours_once_and_last_and_is_undone_to_the_byte() {
    for runtime in RUNTIMES {
        for mode in MODES {
            let before = directory(&[("10-net.conflist", LIST), ("20-other.conflist", LIST)]);
            let after = made(&before, &wanted(mode, runtime));
            assert_eq!(after.chain(runtime).unwrap(), ["bridge", "portmap", PLUGIN], "{mode:?}");
            let mut undone = after.after(&removal(&after));
            undone.files.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(undone, before, "{mode:?}");
        }
    }
}

#[test]
fn g3_a_single_configuration_is_replaced_without_a_moment_of_none_or_two() {
    for runtime in RUNTIMES {
        let before = directory(&[("10-net.conf", SINGLE), ("10-net.conflist", LIST)]);
        let steps = plan(&before, &wanted(Mode::Inline, runtime)).unwrap();
        for done in 0..=steps.len() {
            let during = before.after(&steps[..done]);
            let chain = during.chain(runtime).unwrap();
            assert_eq!(chain[0], "bridge", "{done} steps");
            assert_eq!(chain.len(), if done == steps.len() { 2 } else { 1 }, "{done} steps: {chain:?}");
        }
        let after = made(&before, &wanted(Mode::Inline, runtime));
        let undone = after.after(&removal(&after));
        assert_eq!(undone.chain(runtime).unwrap(), ["bridge"]);
        assert_eq!(undone.file("10-net.conf"), Some(SINGLE));
        assert_eq!(undone.files.len(), 2, "{undone:#?}");
    }
}

#[test]
fn g3_the_primary_writes_its_single_configuration_again() {
    let wanted = wanted(Mode::Inline, Runtime::Containerd);
    let mut after = made(&directory(&[("net.conf", SINGLE)]), &wanted);
    put(&mut after.files, "net.conf", SINGLE.replace("0.3.1", "0.4.0"));
    let again = made(&after, &wanted);
    assert!(again.file("net.conf.conflist").unwrap().contains("0.4.0"));
    assert_eq!(count(&again, Runtime::Containerd), 1);
}

#[test]
fn g3_a_list_that_somebody_else_has_joined_stays_a_list() {
    let wanted = wanted(Mode::Inline, Runtime::Containerd);
    let mut after = made(&directory(&[("net.conf", SINGLE)]), &wanted);
    let text =
        after.file("net.conf.conflist").unwrap().replace(OURS, &format!("{OURS},{{\"type\":\"istio-cni\"}}"));
    put(&mut after.files, "net.conf.conflist", text);
    let undone = after.after(&removal(&after));
    assert_eq!(undone.chain(Runtime::Containerd).unwrap(), ["bridge", "istio-cni"]);
}

#[test]
fn g3_a_removal_that_was_cut_short_is_completed() {
    for runtime in RUNTIMES {
        let before = directory(&[("10-net.conf", SINGLE)]);
        let installed = plan(&before, &wanted(Mode::Inline, runtime)).unwrap();
        let during = (0..=installed.len()).map(|done| before.after(&installed[..done]));
        let after = before.after(&installed);
        let steps = removal(&after);
        assert_eq!(steps.len(), 2);
        for during in during.chain((0..=steps.len()).map(|done| after.after(&steps[..done]))) {
            assert_eq!(during.after(&removal(&during)), before, "{during:#?}");
        }
        // The primary has written its own anew.
        let newer = SINGLE.replace("bridge", "ptp");
        let mut anew = after.clone();
        put(&mut anew.files, "10-net.conf", newer.clone());
        assert_eq!(anew.after(&removal(&anew)), directory(&[("10-net.conf", &newer)]));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_there() {
    let mut after = made(&directory(&[("10-net.conf", SINGLE)]), &wanted(Mode::Inline, Runtime::Containerd));
    after.files.push(File { name: "10-net.conf".to_owned(), text: Err("Input/output error".to_owned()) });
    let undone = after.after(&removal(&after));
    let broken = |file: &&File| file.name == "10-net.conf" && file.text.is_err();
    assert!(undone.files.iter().any(|file| broken(&file)), "{undone:#?}");
    assert_eq!(undone.file(&format!("10-net.conf{REPLACED}")), Some(SINGLE));
    assert!(!undone.file("10-net.conf.conflist").unwrap().contains(PLUGIN));
}

#[test]
fn g31_from_each_way_to_each_other_there_is_never_more_than_one() {
    for (from, to) in MODES.into_iter().flat_map(|from| MODES.map(|to| (from, to))) {
        let runtime = Runtime::Containerd;
        let before = made(&directory(&[("10-net.conflist", LIST)]), &wanted(from, runtime));
        let steps = plan(&before, &wanted(to, runtime)).unwrap();
        for done in 0..=steps.len() {
            let during = before.after(&steps[..done]);
            assert!(count(&during, runtime) <= 1, "{from:?} to {to:?}, {done} steps: {during:#?}");
        }
        assert_eq!(count(&before.after(&steps), runtime), 1, "{from:?} to {to:?}");
    }
}

#[test]
fn g28_g30_a_drop_in_follows_the_networks_name() {
    let wanted = wanted(Mode::DropIn, Runtime::Crio);
    let mut after = made(&directory(&[("10-net.conflist", LIST)]), &wanted);
    assert_eq!(after.drop_ins.len(), 1);
    assert_eq!(after.file("10-net.conflist"), Some(LIST), "nothing of the primary's is touched");
    put(&mut after.files, "10-net.conflist", LIST.replace("\"net\"", "\"renamed\""));
    assert_eq!(count(&after, Runtime::Crio), 0);
    let again = made(&after, &wanted);
    assert_eq!(again.drop_ins.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["renamed"]);
}

#[test]
fn g29_a_drop_in_that_would_not_be_read_is_refused() {
    let only = LIST.replace("\"plugins\"", "\"loadOnlyInlinedPlugins\":true,\"plugins\"");
    for (name, text) in [("a.conf", SINGLE), ("a.conflist", &only)] {
        let refused = plan(&directory(&[(name, text)]), &wanted(Mode::DropIn, Runtime::Containerd));
        assert!(matches!(refused, Err(NoPlan::NoDropIn(_))), "{text}: {refused:?}");
    }
}

#[test]
fn g32_the_copy_follows_the_primary() {
    let wanted = wanted(Mode::Copy, Runtime::Containerd);
    let mut after = made(&directory(&[("10-net.conflist", LIST)]), &wanted);
    put(&mut after.files, "10-net.conflist", LIST.replace("portmap", "bandwidth"));
    let again = made(&after, &wanted);
    assert_eq!(again.chain(Runtime::Containerd).unwrap(), ["bridge", "bandwidth", PLUGIN]);
    // Cilium's exclusive mode renames what is not its own.
    let renamed = again.after(&[Step::Rename { from: COPY.to_owned(), to: format!("{COPY}.cilium_bak") }]);
    assert_eq!(made(&renamed, &wanted).chain(Runtime::Containerd).unwrap().len(), 3);
}

#[test]
fn a_copy_that_would_not_count_is_refused() {
    let before = directory(&[("00-a.conflist", LIST)]);
    let refused = plan(&before, &wanted(Mode::Copy, Runtime::Containerd)).unwrap_err();
    assert_eq!(refused, NoPlan::Ineffective { file: "00-a.conflist".to_owned(), ours: COPY.to_owned() });
}

#[test]
fn g1_g22_without_a_network_nothing_is_written() {
    for files in [&[][..], &[("10-net.conflist", &LIST[..20])], &[("10-net.conflist", "")]] {
        for mode in MODES {
            let found = plan(&directory(files), &wanted(mode, Runtime::Containerd));
            assert!(matches!(found, Err(NoPlan::NoNetwork(_))), "{found:?}");
        }
    }
}

#[test]
fn removal_leaves_what_is_not_ours() {
    let broken = &LIST[..20];
    let before = directory(&[("10-net.conflist", LIST), ("20-x.conflist", broken), ("30-y.conf", SINGLE)]);
    assert_eq!(removal(&before), Vec::new());
    let alone = directory(&[("10-net.conflist", r#"{"name":"n","plugins":[{"type":"balancing-cni"}]}"#)]);
    assert_eq!(removal(&alone), Vec::new(), "an empty list would be no better");
}

#[test]
fn g45_a_version_that_our_plugin_does_not_speak_is_refused() {
    for (told, version) in [("has no cniVersion", ""), ("has cniVersion 0.2.0", "0.2.0"), ("1.2.0", "1.2.0")]
    {
        let key = if version.is_empty() { String::new() } else { format!("\"cniVersion\":\"{version}\",") };
        let list = LIST.replace("\"cniVersion\":\"1.0.0\",", &key);
        let single = SINGLE.replace("\"cniVersion\":\"0.3.1\",", &key);
        for (name, text) in [("a.conflist", &list), ("a.conf", &single)] {
            for mode in MODES {
                let refused =
                    plan(&directory(&[(name, text)]), &wanted(mode, Runtime::Containerd)).unwrap_err();
                assert!(refused.is_harm(), "{refused:?}");
                let said = refused.to_string();
                assert!(
                    said.contains(told) && said.contains("0.3.0, 0.3.1") && said.contains(name),
                    "{said}"
                );
            }
        }
    }
}

#[test]
fn g46_beside_multus_there_is_no_copy() {
    let multus = SINGLE.replace("bridge", "multus");
    let behind = LIST.replace("portmap", "multus");
    let shim = SINGLE.replace("bridge", "multus-shim");
    for (name, text) in
        [("00-multus.conf", &multus), ("00-multus.conf", &shim), ("00-multus.conflist", &behind)]
    {
        let before = directory(&[(name, text), ("10-net.conflist", LIST)]);
        for runtime in RUNTIMES {
            let refused = plan(&before, &wanted(Mode::Copy, runtime)).unwrap_err();
            assert!(
                refused.is_harm() && refused.to_string().contains("--cni-mode auto or inline"),
                "{refused}"
            );
            let after = made(&before, &wanted(Mode::Inline, runtime));
            assert_eq!(after.chain(runtime).unwrap().last().unwrap(), PLUGIN);
        }
    }
}

#[test]
fn g47_a_place_before_the_first_plugin_is_refused() {
    let before = directory(&[("10-net.conflist", LIST)]);
    for mode in [Mode::Inline, Mode::Copy] {
        let at = |kind: &str| Wanted { place: Place::Before(kind.to_owned()), ..wanted(mode, Runtime::Crio) };
        let refused = plan(&before, &at("bridge")).unwrap_err();
        assert!(
            refused.is_harm() && refused.to_string().contains("bridge is the first plugin of"),
            "{refused}"
        );
        assert_eq!(
            made(&before, &at("portmap")).chain(Runtime::Crio).unwrap(),
            ["bridge", PLUGIN, "portmap"]
        );
    }
}

#[test]
fn g49_a_name_that_runtimes_do_not_take_is_refused() {
    for name in ["", "../net", "a b/c", "-net"] {
        let text = LIST.replace("\"net\"", &format!("{name:?}"));
        let single = SINGLE.replace("\"net\"", &format!("{name:?}"));
        assert!(text != LIST && single != SINGLE);
        for (file, text) in [("a.conflist", &text), ("a.conf", &single)] {
            for mode in [Mode::Inline, Mode::DropIn, Mode::Copy] {
                let refused =
                    plan(&directory(&[(file, text)]), &wanted(mode, Runtime::Containerd)).unwrap_err();
                assert!(refused.is_harm(), "{text}: {refused}");
                assert!(refused.to_string().contains(&format!("the name of {file}, {name:?}")), "{refused}");
            }
        }
    }
}
