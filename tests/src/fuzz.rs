//! A small fuzzer that runs in an ordinary test, on stable: inputs of a corpus are changed at random, and one that makes its
//! target say something new is changed further.
//!
//! It sees no coverage: what a target says (an error's words, without what they quote) stands for it. Needs nothing but the
//! standard library, so that other crates' unit tests include this file.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::random::Random;

/// Seconds for each target; for an hour by hand.
const SECONDS: (&str, u64) = ("BALANCING_FUZZ_SECONDS", 1);
/// Another sequence.
const SEED: (&str, u64) = ("BALANCING_FUZZ_SEED", 0x5eed_f022);
/// No parser takes that long for what a fuzzer makes.
const SLOW: Duration = Duration::from_secs(2);
/// Largest input.
const LIMIT: usize = 8 * 1024;
/// Inputs that are kept, and outcomes that are told apart.
const POOL: usize = 4096;

/// What is tried.
pub struct Target<'t> {
    /// Its name, and that of the directory of its corpus.
    pub name: &'t str,
    /// Words of its language.
    pub words: &'t [&'t str],
    /// Takes an input, checks what must hold, and says what came of it.
    pub run: &'t dyn Fn(&[u8]) -> String,
}

/// What a target did.
#[derive(Debug)]
pub struct Figures {
    /// Inputs that were tried.
    pub cases: usize,
    /// Different things that it said.
    pub kinds: usize,
}

/// Feeds a target for the time that the environment says.
///
/// # Panics
/// When the target panics or is slow; the input is then in a file that the message names. Put it into the corpus.
pub fn fuzz(corpus: &Path, target: &Target<'_>) -> Figures {
    let setting = |(name, usual): (&str, u64)| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
    };
    let mut pool = seeds(&corpus.join(target.name));
    let mut seen: BTreeSet<String> = pool.iter().map(|seed| kind(&attempt(target, seed))).collect();
    let mut cases = 0;
    let mut random = Random::new(setting(SEED));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(setting(SECONDS)) {
        // A look at the clock costs as much as a case.
        for _ in 0..32 {
            let input = mutate(&pool, target.words, &mut random);
            let kind = kind(&attempt(target, &input));
            if seen.len() < POOL && seen.insert(kind) {
                pool.push(input);
            }
            cases += 1;
        }
    }
    let rate = cases as f64 / begin.elapsed().as_secs_f64();
    eprintln!("fuzz {}: {cases} cases, {rate:.0} a second, {} outcomes", target.name, seen.len());
    Figures { cases, kinds: seen.len() }
}

fn seeds(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let seeds: Vec<Vec<u8>> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    assert!(!seeds.is_empty(), "no corpus in {}", directory.display());
    seeds
}

fn attempt(target: &Target<'_>, input: &[u8]) -> String {
    let begin = Instant::now();
    let said = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    match said {
        Ok(said) if begin.elapsed() < SLOW => said,
        Ok(_) => panic!("{}: slow with the input {}", target.name, keep(target, input).display()),
        Err(_) => panic!("{}: fails with the input {}", target.name, keep(target, input).display()),
    }
}

/// Keeps an input for whoever looks into the failure.
fn keep(target: &Target<'_>, input: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fuzz-{}-{}", target.name, std::process::id()));
    if let Err(error) = fs::write(&path, input) {
        eprintln!("{}: {error}: {input:?}", path.display());
    }
    path
}

/// What was said, without quoted text and numbers: its first words.
fn kind(said: &str) -> String {
    let unquoted = said.split(['"', '`', '\'']).step_by(2);
    let words = unquoted.flat_map(str::split_whitespace);
    words
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .take(12)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A few changes to one of the pool.
fn mutate(pool: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(pool).clone();
    for _ in 0..=random.below(5) {
        change(&mut input, pool, words, random);
        input.truncate(LIMIT);
    }
    input
}

fn change(input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let length = input.len();
    let (from, to) = {
        let (a, b) = (random.below(length + 1), random.below(length + 1));
        (a.min(b), a.max(b))
    };
    match random.below(10) {
        0 if length > 0 => input[random.below(length)] ^= 1 << random.below(8),
        1 if length > 0 => {
            input[random.below(length)] =
                *random.pick(b"\0\n\t \"'\\/{}[]:,;=-.%0919azAZ\x7f\xff\xc3#&*!|>?@")
        }
        2 => drop(input.drain(from..to.min(from + 16))),
        3 => drop(input.drain(from..to)),
        // A part once more, elsewhere.
        4 => {
            let part = input[from..to].to_vec();
            let at = random.below(length + 1);
            drop(input.splice(at..at, part));
        }
        // A part of another input.
        5 | 6 => {
            let other = random.pick(pool);
            let start = random.below(other.len() + 1);
            let end = random.within(start..other.len() + 1);
            drop(input.splice(from..to.min(from + 64), other[start..end].iter().copied()));
        }
        7 | 8 if !words.is_empty() => {
            let end = if random.once_in(2) { from } else { to.min(from + 24) };
            drop(input.splice(from..end, random.pick(words).bytes()));
        }
        // Many of the same.
        9 => {
            let byte = *random.pick(b"[{(0 \n-a\"");
            drop(input.splice(from..from, vec![byte; 1 << random.below(10)]));
        }
        _ => input.truncate(from),
    }
}
