//! The client of the API server: where the credentials come from and how patient it is.
//!
//! Making one asks the server nothing, so an API server that is away does not stop the agent. The client does not
//! retry: whoever uses it knows better what to do when a request fails, and must be able to tell it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::{HeaderValue, header::USER_AGENT};
use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

mod connector;
mod stack;

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
}

/// Makes a client from a kubeconfig (its current context), or from the ServiceAccount of the pod this runs in.
///
/// # Errors
///
/// When there are no usable credentials. Whether the server answers does not matter.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ClientError> {
    let (mut config, origin) = match kubeconfig {
        Some(path) => (read_kubeconfig(path).await?, format!("kubeconfig {path:?}")),
        None => (Config::incluster().map_err(ClientError::InCluster)?, "the ServiceAccount".to_owned()),
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    let agent = HeaderValue::from_static(concat!("balancing-agent/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
    let server = server.trim_end_matches('/').to_owned();
    let client = stack::client(config).map_err(|source| ClientError::Credentials { origin, source })?;
    Ok(Connection { client, namespace, description: format!("kube:{server}"), server })
}

async fn read_kubeconfig(path: &Path) -> Result<Config, ClientError> {
    let wrong = |source| ClientError::Kubeconfig { path: path.to_path_buf(), source };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connect_with(text: &str) -> Result<Connection, ClientError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        connect(Some(file.path())).await
    }

    #[tokio::test]
    async fn a_server_that_is_away_stops_nothing() {
        let connection = connect_with(
            "{current-context: a, clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], \
             users: [{name: a, user: {token: t}}], \
             contexts: [{name: a, context: {cluster: a, user: a, namespace: own}}]}",
        )
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(connection.description, "kube:https://127.0.0.1:1");
        assert_eq!(connection.server, "https://127.0.0.1:1");
        assert_eq!(connection.namespace, "own");
    }

    #[tokio::test]
    async fn a_wrong_file_is_named() {
        let missing = connect(Some(Path::new("/nonexistent/kubeconfig"))).await.err().unwrap().to_string();
        assert!(missing.contains("/nonexistent/kubeconfig") && missing.contains("--kubeconfig"), "{missing}");
        let broken = connect_with("{").await.err().unwrap();
        assert!(matches!(broken, ClientError::Kubeconfig { .. }), "{broken}");
        let tokenless = connect_with(
            "{current-context: a, clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], \
             users: [{name: a, user: {tokenFile: /nonexistent/token}}], \
             contexts: [{name: a, context: {cluster: a, user: a}}]}",
        )
        .await
        .err()
        .unwrap();
        assert!(matches!(tokenless, ClientError::Credentials { .. }), "{tokenless}");
    }

    #[tokio::test]
    async fn without_a_file_the_remedies_are_named() {
        // Not in a pod: the variables that kubelet sets are missing.
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            return;
        }
        let error = connect(None).await.err().unwrap().to_string();
        assert!(error.contains("KUBECONFIG") && error.contains("serviceaccount"), "{error}");
    }
}
