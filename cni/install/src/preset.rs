//! Where platforms have the directories of the container network interface, as data. Pure but for the look whether one exists.

use std::path::{Path, PathBuf};

/// The directories of a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name, as an operator chooses it.
    pub name: &'static str,
    /// Of this platform where this path exists; empty = never found out by itself.
    marker: &'static str,
    /// Directory of network configurations.
    pub net_dir: &'static str,
    /// Directory of plugins.
    pub bin_dir: &'static str,
    /// Socket of its runtime; empty = one of the usual ones.
    pub socket: &'static str,
}

/// The usual directories: containerd and CRI-O as they come, kubeadm, EKS, AKS, kind, minikube, Talos, Bottlerocket, Flatcar.
pub const STANDARD: Preset =
    Preset { name: "standard", marker: "", net_dir: "/etc/cni/net.d", bin_dir: "/opt/cni/bin", socket: "" };

/// Where k3s and RKE2 have their containerd.
const K3S: &str = "/run/k3s/containerd/containerd.sock";

/// All, the more particular ones first.
pub const ALL: [Preset; 6] = [
    Preset {
        name: "microk8s",
        marker: "/var/snap/microk8s/current/args/cni-network",
        net_dir: "/var/snap/microk8s/current/args/cni-network",
        bin_dir: "/var/snap/microk8s/current/opt/cni/bin",
        socket: "/var/snap/microk8s/common/run/containerd.sock",
    },
    Preset {
        name: "k3d",
        marker: "",
        net_dir: "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        bin_dir: "/bin",
        socket: K3S,
    },
    Preset {
        name: "k3s",
        marker: "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        net_dir: "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        bin_dir: "/var/lib/rancher/k3s/data/cni",
        socket: K3S,
    },
    Preset {
        name: "rke2",
        marker: "/var/lib/rancher/rke2/agent/etc/cni/net.d",
        net_dir: "/var/lib/rancher/rke2/agent/etc/cni/net.d",
        bin_dir: "/opt/cni/bin",
        socket: K3S,
    },
    Preset {
        name: "gke",
        marker: "/home/kubernetes/bin",
        net_dir: "/etc/cni/net.d",
        bin_dir: "/home/kubernetes/bin",
        socket: "",
    },
    STANDARD,
];

/// The preset of that name.
#[must_use]
pub fn named(name: &str) -> Option<Preset> {
    ALL.into_iter().find(|preset| preset.name == name)
}

/// The preset of the host whose root is there.
#[must_use]
pub fn of_host(root: &Path) -> Preset {
    let exists = |preset: &Preset| !preset.marker.is_empty() && below(root, preset.marker).exists();
    ALL.into_iter().find(exists).unwrap_or(STANDARD)
}

/// A path of the host as it is seen from a root.
#[must_use]
pub fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn g39_networks_that_multus_reads_by_name_are_no_platform() {
        let root = tempfile::tempdir().unwrap();
        for path in ["/etc/cni/multus/net.d", "/var/lib/cni/bin"] {
            fs::create_dir_all(below(root.path(), path)).unwrap();
        }
        assert_eq!(of_host(root.path()), STANDARD);
    }

    #[test]
    fn g39_each_platform_is_known_by_its_directories() {
        for preset in ALL.into_iter().filter(|preset| !preset.marker.is_empty()) {
            let root = tempfile::tempdir().unwrap();
            for usual in [STANDARD.net_dir, STANDARD.bin_dir, preset.marker] {
                fs::create_dir_all(below(root.path(), usual)).unwrap();
            }
            assert_eq!(of_host(root.path()), preset);
        }
        assert_eq!(of_host(tempfile::tempdir().unwrap().path()), STANDARD);
        for preset in ALL {
            assert_eq!(named(preset.name), Some(preset));
        }
        assert_eq!(named("windows"), None);
    }
}
