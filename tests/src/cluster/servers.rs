//! The programs of a control plane and their arguments.

use std::{path::Path, process::Command};

use super::{ADDRESS, PORT, pki::Pki};
use crate::{Place, programs::control_plane_program};

/// Where etcd answers, in the control plane's network namespace.
pub(super) const ETCD: &str = "127.0.0.1:2379";
/// ClusterIPs of Services, both families.
const SERVICE_RANGE: &str = "10.96.0.0/16,fd00:96::/112";
/// Named by the tokens of ServiceAccounts; nobody connects to it.
const ISSUER: &str = "https://kubernetes.default.svc";

pub(super) fn etcd(place: &Place, data: &Path) -> Command {
    let client = format!("http://{ETCD}");
    let peer = "http://127.0.0.1:2380";
    let mut command = place.command(control_plane_program("etcd"));
    command
        .arg("--data-dir")
        .arg(data)
        // A crash of the machine ends the test as well.
        .arg("--unsafe-no-fsync")
        .args(["--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // The only member elects itself after the second, by default of a second.
        .args(["--heartbeat-interval", "10", "--election-timeout", "100"]);
    command
}

/// The API server. Without the controller that makes ServiceAccounts, the admission plugin of that name
/// would refuse every pod.
pub(super) fn api_server(place: &Place, pki: &Pki, directory: &Path, service_accounts: bool) -> Command {
    // No controller here takes the taint away again that this plugin gives to new nodes.
    let mut disabled = vec!["TaintNodesByCondition"];
    if !service_accounts {
        disabled.push("ServiceAccount");
    }
    let mut command = place.command(control_plane_program("kube-apiserver"));
    // A fifth of the time to start is the garbage collector's otherwise; this costs 100 MB.
    command.env("GOGC", "400");
    // Of 100,000 pods it would take 7 GB otherwise.
    command.env("GOMEMLIMIT", "3GiB");
    command
        .arg(format!("--etcd-servers=http://{ETCD}"))
        .arg("--bind-address=0.0.0.0")
        .arg(format!("--advertise-address={ADDRESS}"))
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"))
        .arg(flag("--cert-dir", directory))
        .arg(flag("--tls-cert-file", &pki.server.0))
        .arg(flag("--tls-private-key-file", &pki.server.1))
        .arg(flag("--client-ca-file", pki.authority()))
        .arg(format!("--service-account-issuer={ISSUER}"))
        .arg(flag("--service-account-key-file", &pki.tokens.0))
        .arg(flag("--service-account-signing-key-file", &pki.tokens.1))
        .arg("--authorization-mode=RBAC")
        .arg(format!("--disable-admission-plugins={}", disabled.join(",")))
        .arg("--allow-privileged=true")
        .arg("--profiling=false");
    command
}

/// The controller manager with these controllers only.
pub(super) fn controller_manager(place: &Place, pki: &Pki, controllers: &[String]) -> Command {
    let mut command = component(place, "kube-controller-manager", &pki.controller_manager);
    command
        .arg(format!("--controllers={}", controllers.join(",")))
        .arg(flag("--service-account-private-key-file", &pki.tokens.1))
        .arg(flag("--root-ca-file", pki.authority()))
        .arg("--use-service-account-credentials");
    command
}

pub(super) fn scheduler(place: &Place, pki: &Pki) -> Command {
    component(place, "kube-scheduler", &pki.scheduler)
}

/// A client of the API server that serves nothing itself.
fn component(place: &Place, name: &str, kubeconfig: &Path) -> Command {
    let mut command = place.command(control_plane_program(name));
    command
        .arg(flag("--kubeconfig", kubeconfig))
        .arg(flag("--authentication-kubeconfig", kubeconfig))
        .arg(flag("--authorization-kubeconfig", kubeconfig))
        .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"]);
    command
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
