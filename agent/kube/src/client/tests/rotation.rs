//! Credentials that change under a running client, and a proxy on the way.

use std::{fs, time::Duration};

use http::Request;
use serde_json::json;
use tempfile::TempDir;

use super::{
    super::{Connection, connect},
    server::{Proxy, Server},
};

/// The files of one kubeconfig.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A kubeconfig that names the CA's file, with more about its cluster.
    fn write(&self, server: &Server, token: &str, more: &serde_json::Value) {
        let mut cluster =
            json!({"server": format!("https://{}", server.address), "certificate-authority": "ca.crt"});
        cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = json!({
            "current-context": "a",
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "a", "user": {"token": token}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        self.put("config", &text.to_string());
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), text).unwrap();
    }

    async fn connect(&self) -> Connection {
        connect(Some(&self.0.path().join("config"))).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

async fn ask(connection: &Connection) -> Result<String, kube::Error> {
    connection.client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await
}

async fn start(token: &'static str) -> (Server, Files, Connection) {
    let ((server, authority), files) = (Server::start(token).await, Files::new());
    files.put("ca.crt", &authority);
    files.write(&server, token, &json!({}));
    let connection = files.connect().await;
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    (server, files, connection)
}

#[tokio::test]
async fn another_authority_is_trusted_once_its_file_is_there() {
    let (server, files, connection) = start("one").await;
    let authority = server.rotate();
    let error = ask(&connection).await.unwrap_err();
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    ask(&connection).await.unwrap_err();
    files.put("ca.crt", &authority);
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    assert_eq!(*connection.problem.borrow(), None);
}

#[tokio::test]
async fn another_token_is_used_after_a_refusal() {
    let (server, files, connection) = start("one").await;
    files.write(&server, "two", &json!({}));
    assert_eq!(ask(&connection).await.unwrap(), "welcome", "nobody looks while all is well");
    server.accept("two");
    ask(&connection).await.unwrap_err();
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
}

/// As after ten seconds: a watch that comes back must not need a failure first.
#[tokio::test]
async fn files_are_looked_at_from_time_to_time() {
    let (server, files, connection) = start("one").await;
    files.write(&server, "two", &json!({}));
    server.accept("two");
    tokio::time::sleep(super::super::renew::PAUSE + Duration::from_millis(100)).await;
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_told_and_change_nothing() {
    let (server, files, connection) = start("one").await;
    let authority = fs::read_to_string(files.0.path().join("ca.crt")).unwrap();
    let refuse = async || {
        server.accept("other");
        ask(&connection).await.unwrap_err();
        server.accept("one");
    };
    for (file, text, expected) in
        [("config", "{", "config"), ("ca.crt", "", "no certificate"), ("ca.crt", "-----BEGIN", "ca")]
    {
        files.write(&server, "one", &json!({}));
        files.put("ca.crt", &authority);
        files.put(file, text);
        refuse().await;
        assert_eq!(ask(&connection).await.unwrap(), "welcome", "{file} {text:?}");
        let problem = connection.problem.borrow().clone().unwrap_or_default();
        assert!(problem.contains(expected) && problem.contains("stays in use"), "{file} {text:?}: {problem}");
    }
    fs::remove_file(files.0.path().join("config")).unwrap();
    refuse().await;
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    assert!(connection.problem.borrow().as_ref().is_some_and(|problem| problem.contains("No such file")));
    files.write(&server, "two", &json!({}));
    files.put("ca.crt", &authority);
    server.accept("two");
    ask(&connection).await.unwrap_err();
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    assert_eq!(*connection.problem.borrow(), None);
}

#[tokio::test]
async fn a_proxy_of_the_kubeconfig_is_asked_for_the_server() {
    let ((server, authority), files, proxy) =
        (Server::start("one").await, Files::new(), Proxy::start().await);
    files.put("ca.crt", &authority);
    let url = format!("http://user:password@{}", proxy.address);
    files.write(&server, "one", &json!({"proxy-url": url}));
    let connection = files.connect().await;
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    let asked = proxy.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].starts_with(&format!("CONNECT {} ", server.address)), "{asked:?}");
    assert!(asked[0].contains("Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n"), "{asked:?}");
    // The proxy goes, by way of a new kubeconfig.
    files.write(&server, "one", &json!({}));
    server.accept("two");
    ask(&connection).await.unwrap_err();
    server.accept("one");
    assert_eq!(ask(&connection).await.unwrap(), "welcome");
    assert_eq!(proxy.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_proxy_that_nobody_speaks_to_is_named() {
    let ((server, authority), files) = (Server::start("one").await, Files::new());
    files.put("ca.crt", &authority);
    files.write(&server, "one", &json!({"proxy-url": "ftp://proxy"}));
    let error = connect(Some(&files.0.path().join("config"))).await.err().unwrap().to_string();
    assert!(error.contains("proxy-url") && error.contains("socks5"), "{error}");
}
