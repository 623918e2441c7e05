//! Where built programs are.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::must::Must;

/// Directory of the programs to test, instead of the build the test belongs to. The harness's own are never
/// taken from there.
const OTHER_BUILD: &str = "BALANCING_BIN";

/// A binary of this workspace, from the build the test itself belongs to (`target/debug` or the like), or from
/// the directory that `BALANCING_BIN` names. `cargo build --workspace` makes those of other crates; `make test`
/// does that first.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let other = env::var_os(OTHER_BUILD).map(|directory| PathBuf::from(directory).join(name));
    if let Some(path) = other.filter(|path| name.starts_with("balancing") && path.is_file()) {
        return path;
    }
    let own = env::current_exe().must("find the test's own binary");
    // Tests are in `deps`, one level below the programs; so is a bench. The helper is not.
    let found =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.must(format_args!("find the program {name} near {}: run `cargo build --workspace`", own.display()))
}

/// A test tool written in Go (`cnitool`, `libcni-1.3.0`, `skel`, `bridge`, `host-local` and the like), built by `tests/setup.sh go`.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    built_tool("tools/bin", name, "go")
}

/// A program of the control plane (`kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kubectl`,
/// `etcd`), built by `tests/setup.sh kube`.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn control_plane_program(name: &str) -> PathBuf {
    built_tool("tools/kube/bin", name, "kube")
}

/// flannel's daemon, built by `tests/setup.sh flannel`.
///
/// # Panics
/// When it is not built.
#[must_use]
pub(crate) fn flannel_program() -> PathBuf {
    built_tool("tools/flannel/bin", "flannel", "flannel")
}

/// Helm, built by `tests/setup.sh helm`.
///
/// # Panics
/// When it is not built.
#[must_use]
pub(crate) fn helm_program() -> PathBuf {
    built_tool("tools/helm/bin", "helm", "helm")
}

/// `prometheus` or `promtool`, built by `tests/setup.sh prometheus`.
///
/// # Panics
/// When it is not built.
#[must_use]
pub(crate) fn prometheus_program(name: &str) -> PathBuf {
    built_tool("tools/prometheus/bin", name, "prometheus")
}

fn built_tool(directory: &str, name: &str, part: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join(name);
    assert!(path.is_file(), "no {}: run `tests/setup.sh {part}`", path.display());
    path
}
