//! Kernel memory of the tables, by the kernel's own accounting (`memlock` of a map's fdinfo).

use crate::{Report, hooks, plane::Plane};

/// Maps that connect and close have no use for: optional features, counters that seldom count, what people read.
const APART: [&str; 8] = ["affinity", "control", "events", "policies", "qos", "rare", "skips", "stats"];

pub(crate) fn measure(report: &mut Report) {
    let mut plane = Plane::load("bench-memory");
    hooks::fill(&mut plane);
    let maps = plane.memory();
    let (apart, used): (Vec<_>, Vec<_>) =
        maps.into_iter().partition(|(name, _)| APART.contains(&name.as_str()));
    let sum = |maps: &[(String, u64)]| maps.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / 1e6;
    let list = |maps: &[(String, u64)]| {
        let words = maps.iter().map(|(name, bytes)| format!("{name} {:.2}", *bytes as f64 / 1e6));
        words.collect::<Vec<_>>().join(", ")
    };
    eprintln!("MB of maps that connect and close use: {}", list(&used));
    eprintln!("MB of the others: {}", list(&apart));
    report.at_most("kernel memory for 60,000 frontends, maps of connect and close", sum(&used), "MB", 16.0);
    report.tell("kernel memory for 60,000 frontends, all maps", sum(&used) + sum(&apart), "MB");
}
