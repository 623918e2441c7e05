//! The client of the API server: where the credentials come from and how patient it is.
//!
//! Making one asks the server nothing, so an API server that is away does not stop the agent. The client does not
//! retry: whoever uses it knows better what to do when a request fails, and must be able to tell it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client,
    config::{InClusterError, KubeconfigError},
};
use tokio::sync::watch;

mod connector;
mod credentials;
mod proxy;
mod renew;
mod stack;

use self::{credentials::Origin, renew::Renewing};

pub use self::proxy::ProxyError;

/// Longest wait for a connection, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a server counts as dead whose machine still answers. Of one that does not, the kernel tells much
/// sooner ([`connector`]). A watch is never silent that long: bookmarks come every minute
/// (Kubernetes, "API Concepts", Watch bookmarks).
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A client and what its credentials say.
#[derive(Clone)]
pub struct Connection {
    /// The client. It has not asked the server anything yet.
    pub client: Client,
    /// Namespace of the credentials; in a pod that of the pod.
    pub namespace: String,
    /// URL of the server.
    pub server: String,
    /// What this is as a source, such as `kube:https://127.0.0.1:6443`.
    pub description: String,
    /// What is wrong with credentials that replaced those in use.
    pub problem: watch::Receiver<Option<String>>,
}

/// There are no usable credentials.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The given file.
    #[error(
        "kubeconfig {path:?}: {source}; correct the file, or name another one with --kubeconfig or KUBECONFIG"
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// No file was given and this is no pod with a ServiceAccount.
    #[error(
        "no credentials for an API server: {0}; name a kubeconfig with --kubeconfig or KUBECONFIG, or run in a pod \
         with a ServiceAccount (files token, ca.crt and namespace in /var/run/secrets/kubernetes.io/serviceaccount, \
         variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT)"
    )]
    InCluster(InClusterError),
    /// The credentials were found and cannot be used.
    #[error("the credentials of {origin} cannot be used: {source}; correct them")]
    Credentials {
        /// Where they are from.
        origin: String,
        /// What is wrong with them.
        source: kube::Error,
    },
    /// The file of the CA is empty or half written.
    #[error("the CA of {origin} has no certificate; correct it")]
    NoAuthority {
        /// Where it is from.
        origin: String,
    },
    /// There is a proxy that nobody here can use.
    #[error("the proxy for {origin} cannot be used: {source}; correct it")]
    Proxy {
        /// Where the credentials are from.
        origin: String,
        /// What is wrong with it.
        source: ProxyError,
    },
}

/// Makes a client from a kubeconfig (its current context), or from the ServiceAccount of the pod this runs in.
///
/// # Errors
///
/// When there are no usable credentials. Whether the server answers does not matter.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ClientError> {
    let origin = Origin::of(kubeconfig);
    let (seen, credentials) = origin.read().await;
    let credentials = credentials?;
    let (namespace, server) = credentials.place();
    let (service, problem) = Renewing::new(origin, seen, credentials.client()?);
    let client = Client::new(service, namespace.clone());
    Ok(Connection { client, namespace, description: format!("kube:{server}"), server, problem })
}

#[cfg(test)]
mod tests;
