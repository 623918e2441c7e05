//! Compiles the BPF programs, when the crate is built with its loader.
//!
//! Two compilers will do: a rustup nightly with `rust-src`, or the distribution's `rustc` with its
//! sources (Debian: `rustc-web` and `rust-web-src`). `BALANCING_BPF_OBJECTS` names a directory with finished objects instead.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One object for each set of programs.
const OBJECTS: [&str; 2] = ["sockets", "proxy"];

const MISSING: &str = "cannot compile the BPF programs. Needed:
  1. a Rust compiler that builds for bpfel-unknown-none, either
     - a rustup nightly with its sources: rustup toolchain install nightly --component rust-src
     - or Debian's: apt-get install rustc-web rust-web-src
  2. bpf-linker 0.13, in PATH or in ~/.cache/balancing/bpf-linker/bin
`make setup` installs both on Debian and Ubuntu. Missing here: ";

/// A compiler for the BPF target: a command that runs cargo with it.
struct Toolchain {
    name: String,
    program: PathBuf,
    arguments: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
    /// Where it and the sources of `core` lie.
    sysroot: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=BALANCING_BPF_OBJECTS");
    println!("cargo::rerun-if-env-changed=PATH");
    if env::var_os("CARGO_FEATURE_LOADER").is_none() {
        println!("cargo::rerun-if-changed=build.rs");
        return Ok(());
    }
    let bpf = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for source in ["abi", "programs"] {
        println!("cargo::rerun-if-changed={}", bpf.join(source).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let objects = match env::var_os("BALANCING_BPF_OBJECTS") {
        Some(path) => PathBuf::from(path),
        None => compile(&bpf.join("programs"), &out.join("bpf"))?,
    };
    for name in OBJECTS {
        let object = objects.join(name);
        fs::copy(&object, out.join(name).with_extension("o"))
            .map_err(|e| format!("cannot copy {}: {e}", object.display()))?;
    }
    Ok(())
}

/// Compiles all objects and returns their directory.
fn compile(crate_dir: &Path, target: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let (Some(toolchain), Some(linker)) = (rustup_nightly().or_else(distribution), linker()) else {
        let mut missing = Vec::new();
        if rustup_nightly().or_else(distribution).is_none() {
            missing.push("the compiler");
        }
        if linker().is_none() {
            missing.push("bpf-linker");
        }
        return Err(format!("{MISSING}{}.", missing.join(" and ")).into());
    };
    let mut cargo = Command::new(&toolchain.program);
    for (name, _) in env::vars_os() {
        // What the outer cargo set for itself would steer the inner one.
        let name = name.to_string_lossy().into_owned();
        let outer = name.starts_with("CARGO") && name != "CARGO_HOME"
            || name.starts_with("RUST") && name != "RUSTUP_HOME";
        if outer {
            cargo.env_remove(name);
        }
    }
    let mut flags = [
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Else LLVM calls functions that fill and copy byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .map(str::to_owned)
    .to_vec();
    flags.extend(remaps(crate_dir, &toolchain)?);
    let status = cargo
        .args(&toolchain.arguments)
        .args(["build", "--release", "--locked", "--ignore-rust-version", "-Zbuild-std=core"])
        .args(["--target", "bpfel-unknown-none", "--manifest-path"])
        .arg(crate_dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .envs(toolchain.environment.iter().map(|(k, v)| (k, v)))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Not as a flag: flags are part of the names of symbols, and its place is not the same everywhere.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_PROFILE_RELEASE_STRIP", "false")
        .status()
        .map_err(|e| format!("cannot run {}: {e}", toolchain.program.display()))?;
    if !status.success() {
        return Err(format!("compiling the BPF programs with {} failed", toolchain.name).into());
    }
    Ok(target.join("bpfel-unknown-none/release"))
}

/// The debug information, from which the linker makes BTF, names files. It names them as if everything lay in one
/// place, so that an object is the same wherever it is built.
fn remaps(crate_dir: &Path, toolchain: &Toolchain) -> Result<Vec<String>, Box<dyn Error>> {
    let repository = crate_dir.join("../..").canonicalize()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    // The compiler takes the last that fits: a repository may lie below the others.
    let places = [
        (Some(PathBuf::from(&toolchain.sysroot)), "/rust"),
        (home, "/cargo"),
        (Some(repository), "/balancing"),
    ];
    let flag = |(from, to): (Option<PathBuf>, &str)| {
        from.map(|from| format!("--remap-path-prefix={}={to}", from.display()))
    };
    Ok(places.into_iter().filter_map(flag).collect())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn has_sources(sysroot: &str) -> bool {
    Path::new(sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

fn rustup_nightly() -> Option<Toolchain> {
    let arguments = vec!["run", "nightly", "cargo"];
    let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    has_sources(&sysroot).then(|| Toolchain {
        name: "rustup's nightly".to_owned(),
        program: PathBuf::from("rustup"),
        arguments,
        environment: Vec::new(),
        sysroot: sysroot.clone(),
    })
}

/// The compiler of the distribution, with the cargo that runs this script.
fn distribution() -> Option<Toolchain> {
    let rustc = "/usr/bin/rustc";
    let sysroot = output(Command::new(rustc).env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]))?;
    has_sources(&sysroot).then(|| Toolchain {
        name: rustc.to_owned(),
        program: env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from),
        arguments: Vec::new(),
        environment: vec![("RUSTC", rustc.to_owned()), ("RUSTC_BOOTSTRAP", "1".to_owned())],
        sysroot: sysroot.clone(),
    })
}

fn linker() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|cache| cache.join("balancing/bpf-linker/bin"));
    let path = env::var_os("PATH")?;
    env::split_paths(&path).chain(cache).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
}
