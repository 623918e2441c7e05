use super::*;

const PROC: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n";

fn roots(table: &str) -> Vec<String> {
    Mounts::parse(table.as_bytes()).cgroup2().map(|path| path.display().to_string()).collect()
}

#[test]
fn pure_v2() {
    let table =
        format!("{PROC}31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
    assert_eq!(roots(&table), ["/sys/fs/cgroup"]);
    assert_eq!(Mounts::parse(table.as_bytes()).cgroup_v1().count(), 0);
}

#[test]
fn d23_d24_hybrid() {
    let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    assert_eq!(roots(table), ["/sys/fs/cgroup/unified"]);
    assert_eq!(
        Mounts::parse(table.as_bytes()).cgroup_v1().collect::<Vec<_>>(),
        [Path::new("/sys/fs/cgroup/cpu")]
    );
}

#[test]
fn d24_unusual_place_with_escapes_and_optional_fields() {
    let table = "41 31 0:38 / /mnt/c\\040g\\134\\011x rw shared:1 master:2 propagate_from:3 - cgroup2 c rw\n";
    assert_eq!(roots(table), ["/mnt/c g\\\tx"]);
}

#[test]
fn what_only_looks_like_an_escape_stays() {
    assert_eq!(unescape(b"\\9a\\04\\400\\"), b"\\9a\\04\\400\\");
    assert_eq!(unescape(b"\\377"), [0xff]);
}

#[test]
fn d24_the_mount_that_shows_most_comes_first() {
    let table = "1 0 0:1 /kubepods/podx /part rw - cgroup2 c rw\n\
                 2 0 0:1 / /own rw - cgroup2 c rw\n\
                 3 0 0:1 /../.. /host rw - cgroup2 c rw\n\
                 4 0 0:1 / /second rw - cgroup2 c rw\n\
                 5 0 0:1 /../sibling /part2 rw - cgroup2 c rw\n";
    assert_eq!(roots(table), ["/host", "/own", "/second", "/part", "/part2"]);
}

#[test]
fn a_mount_point_named_like_the_file_system_does_not_confuse() {
    assert!(roots("1 0 0:1 / /cgroup2 rw - tmpfs cgroup2 rw\n").is_empty());
}

#[test]
fn d24_garbage_is_skipped() {
    assert!(roots("\n1\n1 2 3 4 5 6\n1 2 3 4 5 6 -\n\u{fffd} - cgroup2\n").is_empty());
}

#[test]
fn d22_only_v1_says_what_to_do() {
    let mounts = Mounts::parse(b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
    let message = mounts.cgroup2_root().unwrap_err().to_string();
    assert!(message.contains("/sys/fs/cgroup/cpu"), "{message}");
    assert!(message.contains("systemd.unified_cgroup_hierarchy=1"), "{message}");
}

#[test]
fn d24_a_hidden_mount_is_passed_over() {
    // /proc is certainly no cgroup2: the table claims it, statfs decides.
    let mounts = Mounts::parse(b"1 0 0:1 / /proc rw - cgroup2 c rw\n");
    assert!(matches!(mounts.cgroup2_root(), Err(Error::NoCgroup2 { .. })));
}

#[test]
fn a_missing_path_is_an_error_that_names_it() {
    let error = is_bpffs(Path::new("/nonexistent/bpf")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/bpf"), "{error}");
}
