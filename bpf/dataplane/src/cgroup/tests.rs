use std::{collections::BTreeSet, fs};

use super::{names::*, *};

const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
const UID_: &str = "0b1c2d3e_4f50_6172_8394_a5b6c7d8e9f0";

fn uid(text: &str) -> PodUid {
    PodUid::new(text).unwrap()
}

/// A directory tree that looks like a cgroup tree; removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(test: &str, directories: &[&str]) -> Self {
        Self::below(&std::env::temp_dir(), test, directories)
    }

    /// A large one, in memory where that is possible.
    fn large(test: &str, directories: &[String]) -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::below(&place, test, &directories.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn below(place: &Path, test: &str, directories: &[&str]) -> Self {
        let root = place.join(format!("balancing-{test}-{}", std::process::id()));
        for directory in directories {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn c7_c8_uids() {
    for good in [UID, "9f86d081884c7d659a2feaa0c55ad015", "A", &"a".repeat(64)] {
        assert_eq!(uid(good).as_str(), good);
    }
    for bad in ["", "a/b", "..", "a_b", "-a", "*", "a b", "tmp-a", "ä", "a\n", &"a".repeat(65)] {
        assert!(matches!(PodUid::new(bad), Err(Error::InvalidUid { .. })), "{bad:?}");
    }
}

#[test]
fn d1_d12_every_place_of_a_kubelet() {
    let all: BTreeSet<String> = candidates(&uid(UID)).map(|path| path.display().to_string()).collect();
    let expected = [
        format!("kubepods/pod{UID}"),
        format!("kubepods/burstable/pod{UID}"),
        format!("kubepods/besteffort/pod{UID}"),
        format!("kubelet/kubepods/pod{UID}"),
        format!("kubelet/kubepods/burstable/pod{UID}"),
        format!("kubelet/kubepods/besteffort/pod{UID}"),
        format!("kubepods.slice/kubepods-pod{UID_}.slice"),
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"),
        format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice"),
        format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice"),
        format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{UID_}.slice"
        ),
        format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-pod{UID_}.slice"
        ),
    ];
    assert_eq!(all, expected.into_iter().collect());
}

#[test]
fn d16_d20_names_of_a_pod() {
    for name in [format!("pod{UID}"), format!("a-b-kubepods-burstable-pod{UID_}.slice")] {
        assert!(is_of(&name, &uid(UID)), "{name}");
        assert_eq!(uid_in_path(&format!("/x/{name}/")), Some(uid(UID)), "{name}");
    }
    for name in [
        format!("pod{UID}0"),
        format!("xpod{UID}"),
        format!("pod0{UID}"),
        UID.to_owned(),
        format!("kubepods-pod{UID_}0.slice"),
        format!("kubepods-xpod{UID_}.slice"),
        format!("crio-{UID}.scope"),
        format!("pod{UID}.scope"),
    ] {
        assert!(!is_of(&name, &uid(UID)), "{name}");
    }
    assert_eq!(uid_in_path("/kubepods.slice"), None);
    assert_eq!(uid_in_path("/pods"), None);
    assert_eq!(uid_in_path(""), None);
}

#[test]
fn d20_a_short_uid_is_not_found_in_a_longer_one() {
    assert!(!is_of(&format!("pod{UID}"), &uid("0b1c2d3e")));
    assert!(!is_of(&format!("kubepods-pod{UID_}.slice"), &uid("a5b6c7d8e9f0")));
}

#[test]
fn c10_runtime_paths_are_confined() {
    for (given, below) in
        [("/kubepods/pod1", Some("kubepods/pod1")), ("kubepods//./pod1/", Some("kubepods/pod1")), ("", None)]
    {
        assert_eq!(confine(given).unwrap(), below.map(PathBuf::from), "{given}");
    }
    for bad in ["/", ".", "/../etc", "kubepods/../pod1", "a\0b"] {
        assert!(matches!(confine(bad), Err(Error::InvalidPath { .. })), "{bad:?}");
    }
}

#[test]
fn c10_a_lone_slice_is_expanded() {
    assert_eq!(expand_slice(Path::new("a-b-c.slice")), Path::new("a.slice/a-b.slice/a-b-c.slice"));
    assert_eq!(expand_slice(Path::new("x/a-b.slice")), Path::new("x/a-b.slice"));
    assert_eq!(expand_slice(Path::new("a-b")), Path::new("a-b"));
}

#[test]
fn d13_d16_search_below_an_unusual_root_takes_the_pod_and_not_its_containers() {
    let pod = format!("my.slice/my-own.slice/my-own-kubepods.slice/my-own-kubepods-pod{UID_}.slice");
    let tree = Tree::new("scan", &[&format!("{pod}/crio-pod{UID}"), &format!("other/pod{UID}0")]);
    assert_eq!(scan::pod(&tree.0, &uid(UID)).unwrap(), tree.0.join(&pod));
}

#[test]
fn d19_search_prefers_the_outer_of_two_kubelets() {
    let outer = format!("a/pod{UID}");
    let tree = Tree::new("outer", &[&outer, &format!("a/b/c/pod{UID}")]);
    assert_eq!(scan::pod(&tree.0, &uid(UID)).unwrap(), tree.0.join(outer));
}

#[test]
fn d19_two_directories_of_one_pod_are_named() {
    let tree = Tree::new("twice", &[&format!("a/pod{UID}"), &format!("b/pod{UID}")]);
    let error = scan::pod(&tree.0, &uid(UID)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::Ambiguous { .. }), "{message}");
    assert!(message.contains("/a/pod") && message.contains("/b/pod"), "{message}");
}

#[test]
fn d21_search_ends_at_its_depth_and_says_what_it_did() {
    let deep = format!("1/2/3/4/5/6/7/8/pod{UID}");
    let tree = Tree::new("deep", &[&deep]);
    let error = scan::pod(&tree.0, &uid(UID)).unwrap_err();
    assert!(matches!(error, Error::NotFound { directories: 8, unreadable: 0, .. }), "{error:?}");
}

/// The smallest of a few times: whatever else the machine does.
fn fastest(mut work: impl FnMut()) -> Duration {
    let time = |()| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..10).map(|_| ()).map(time).min().unwrap()
}

#[test]
fn d21_among_ten_thousand_pods() {
    let place = "my.slice/my-own.slice/my-own-kubepods.slice/my-own-kubepods-burstable.slice";
    let name = |number: u32| format!("{place}/my-own-kubepods-burstable-pod{number:032x}.slice");
    let names: Vec<String> = (0..10_000).map(name).collect();
    let tree = Tree::large("crowd", &names);
    let last = uid(&format!("{:032x}", 9_999));
    let searched = fastest(|| drop(scan::pod(&tree.0, &last).unwrap()));
    // Five directories are read: no pod is entered.
    let error = scan::pod(&tree.0, &uid(UID)).unwrap_err();
    assert!(matches!(error, Error::NotFound { directories: 5, .. }), "{error:?}");
    let looked = fastest(|| assert!(known(&tree.0, &last, None).unwrap().is_none()));
    println!("among 10,000 pods: searched for {searched:?}, looked where kubelets put it for {looked:?}");
    assert!(searched < Duration::from_secs(1), "{searched:?}");
    assert!(looked < Duration::from_millis(100), "{looked:?}");
}

#[test]
fn d21_a_search_reads_so_many_directories_and_no_more() {
    let names: Vec<String> = (0..5_000).map(|number| format!("s{number}")).collect();
    let tree = Tree::large("wide", &names);
    let error = scan::pod(&tree.0, &uid(UID)).unwrap_err();
    assert!(matches!(error, Error::NotFound { directories: 4_000, .. }), "{error:?}");
}

#[test]
fn d26_a_directory_outside_cgroup2_is_refused() {
    let tree = Tree::new("plain", &[&format!("kubepods/pod{UID}")]);
    let error = find(&tree.0, &uid(UID), None, Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::NotCgroup2 { .. }), "{error}");
    let error = find(&tree.0, &uid("x"), Some("/kubepods"), Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::NotCgroup2 { .. }), "{error}");
}

#[test]
fn c10_d26_a_symbolic_link_is_refused() {
    let tree = Tree::new("symlink", &["kubepods"]);
    std::os::unix::fs::symlink("/sys/fs", tree.0.join(format!("kubepods/pod{UID}"))).unwrap();
    let error = find(&tree.0, &uid(UID), None, Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::Io { operation: "open", .. }), "{error}");
}

#[test]
fn d17_patience_ends() {
    let tree = Tree::new("patience", &["kubepods"]);
    let patience = Duration::from_millis(20);
    let begin = Instant::now();
    assert!(matches!(find(&tree.0, &uid(UID), None, patience), Err(Error::NotFound { .. })));
    assert!(begin.elapsed() >= patience);
}

#[test]
fn live_ids() {
    let tree = Tree::new("live", &["a/b/c"]);
    let inode = |path: &str| fs::metadata(tree.0.join(path)).unwrap().ino();
    let wanted = BTreeSet::from([inode("a/b"), inode("a/b/c"), 1]);
    let live = BTreeSet::from([inode("a/b"), inode("a/b/c")]);
    assert_eq!(scan::live_cgroups(&tree.0, &wanted), Some(live));
    assert_eq!(scan::live_cgroups(&tree.0, &BTreeSet::new()), Some(BTreeSet::new()));
}

#[test]
fn d23_a_pod_on_version_1_is_noticed() {
    let tree = Tree::new("v1", &[&format!("pids/kubepods/pod{UID}")]);
    let table = format!("1 0 0:1 / {}/pids rw - cgroup cgroup rw,pids\n", tree.0.display());
    let mounts = Mounts::parse(table.as_bytes());
    assert_eq!(on_v1(&mounts, &uid(UID), None), Some(tree.0.join(format!("pids/kubepods/pod{UID}"))));
    assert_eq!(on_v1(&mounts, &uid("other"), None), None);
}
