//! Kernel memory of the tables, by the kernel's own accounting (`memlock` of a map's fdinfo).

use std::{fs, os::fd::AsRawFd};

use balancing_dataplane::{layout::Layout, sys};
use balancing_tests::Bpffs;

use crate::{Report, connect};

fn bytes(layout: &Layout, map: &str) -> u64 {
    let path = layout.maps().join(map);
    let fd = sys::obj_get(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("fdinfo");
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).expect("memlock");
    line.trim().parse().expect("a number")
}

pub(crate) fn measure(report: &mut Report) {
    let bpffs = Bpffs::new("bench-memory");
    let layout = Layout::new(bpffs.path(), balancing_dataplane::ABI);
    let _filled = connect::fill(&layout);
    let names: Vec<String> = fs::read_dir(layout.maps())
        .expect("the maps are pinned")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let all: u64 = names.iter().map(|name| bytes(&layout, name)).sum();
    let affinity = bytes(&layout, "affinity");
    report.at_most(
        "kernel memory for 60,000 frontends with one backend, without affinity",
        (all - affinity) as f64 / 1e6,
        "MB",
        20.0,
    );
    report.tell("affinity table", affinity as f64 / 1e6, "MB");
}
