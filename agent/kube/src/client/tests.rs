//! Credentials at the start.

use super::*;

mod rotation;
mod server;

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
