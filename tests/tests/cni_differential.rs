//! The plugin and three independent implementations of the plugin side of CNI, asked the same: what one accepts and another
//! refuses is listed in `differences.rs`, with the reason, or is a fault.
//!
//! Each question is a process of its own, with a generated environment and stdin. What the plugin thinks of the pod does not
//! count, only what it thinks of the call.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use balancing_tests::{NetNs, Random, TempDir, program, require_kernel, tool};
use serde_json::Value;

#[path = "differential/cases.rs"]
mod cases;
#[path = "differential/differences.rs"]
mod differences;

use cases::Case;
use differences::{DIFFERENCES, Difference, Peer};

/// Cases of a usual run; `BALANCING_DIFFERENTIAL` sets another number.
const CASES: usize = 2000;
const SEED: u64 = 0x00dd_ba11_c0de;
/// Codes that say something about the pod or the node, not about the call: the call was understood.
const UNDERSTOOD: [u64; 11] = [3, 11, 50, 51, 100, 101, 102, 103, 104, 105, 106];

/// Directories of the plugin.
struct World {
    run: TempDir,
    netns: NetNs,
}

/// What one implementation says.
struct Said {
    accepts: bool,
    text: String,
}

/// A case that is judged differently, and by which entries of the list that is explained.
struct Judged {
    peer: Peer,
    we_accept: bool,
    explained: Vec<&'static str>,
    text: String,
}

impl World {
    fn ask(&self, program: &Path, arguments: &[&str], case: &Case) -> Said {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(case.environment(&self.netns.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Who refuses early does not read.
        child.stdin.take().unwrap().write_all(&case.stdin(self.run.path())).ok();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Said { accepts: output.status.success(), text }
    }

    fn ours(&self, case: &Case) -> Said {
        let said = self.ask(&program("balancing-cni"), &[], case);
        if said.accepts {
            return said;
        }
        let error: Value =
            serde_json::from_str(&said.text).unwrap_or_else(|_| panic!("{case:?}: {}", said.text));
        let code = error["code"].as_u64().unwrap();
        assert_ne!(code, 999, "{case:?}: {}", said.text);
        Said { accepts: UNDERSTOOD.contains(&code), text: said.text }
    }

    fn judge(&self, case: &Case) -> Vec<Judged> {
        let ours = self.ours(case);
        let peer_program = program("cni_peer");
        let others = [
            (Peer::Skel, self.ask(&tool("skel"), &[], case)),
            (Peer::Rscni, self.ask(&peer_program, &["rscni"], case)),
            (Peer::CniPlugin, self.ask(&peer_program, &["cni-plugin"], case)),
        ];
        let mut judged = Vec::new();
        for (peer, theirs) in others.into_iter().filter(|(_, theirs)| theirs.accepts != ours.accepts) {
            let applies = |entry: &&Difference| {
                entry.peers.contains(&peer) && entry.we_accept == ours.accepts && (entry.applies)(case)
            };
            let explained = DIFFERENCES.iter().filter(applies).map(|entry| entry.name).collect();
            let text = format!("{case:?}\n  ours: {}\n  {peer:?}: {}", ours.text.trim(), theirs.text.trim());
            judged.push(Judged { peer, we_accept: ours.accepts, explained, text });
        }
        judged
    }
}

fn judge_all(number: usize) -> Vec<Judged> {
    let world = World { run: TempDir::new("differential"), netns: NetNs::new() };
    let cases: Vec<Case> = {
        let mut random = Random::new(SEED);
        (0..number).map(|_| Case::generate(&mut random)).collect()
    };
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        let parts = cases.chunks(cases.len().div_ceil(workers));
        let world = &world;
        let threads: Vec<_> = parts
            .map(|part| {
                scope.spawn(move || part.iter().flat_map(|case| world.judge(case)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a24_the_same_is_accepted_but_for_listed_differences() {
    if !require_kernel() {
        return;
    }
    let number = std::env::var("BALANCING_DIFFERENTIAL").map_or(CASES, |number| number.parse().unwrap());
    let judged = judge_all(number);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in judged.iter().flat_map(|judged| &judged.explained) {
        *seen.entry(entry).or_default() += 1;
    }
    eprintln!("{number} cases, {} differences: {seen:#?}", judged.len());
    let unlisted: Vec<&Judged> = judged.iter().filter(|judged| judged.explained.is_empty()).collect();
    for judged in unlisted.iter().take(40) {
        let verb = if judged.we_accept { "accept" } else { "refuse" };
        eprintln!("we {verb} what {:?} does not: {}\n", judged.peer, judged.text);
    }
    assert!(unlisted.is_empty(), "{} differences are not listed", unlisted.len());
    for entry in DIFFERENCES {
        assert!(seen.contains_key(entry.name), "no case shows any more: {}", entry.name);
    }
}

/// The section of the documentation that the list makes.
#[test]
fn a24_the_differences_are_documented() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs/cni-differences.md"].iter().collect();
    let wanted = differences::in_words();
    if std::env::var_os("BALANCING_WRITE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "run this with BALANCING_WRITE=1");
}
