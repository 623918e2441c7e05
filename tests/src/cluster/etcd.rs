//! What a test does to the store behind the API server's back, by etcd's JSON gateway:
//! <https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/>.

use std::{fs, path::PathBuf, process::Command};

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::{
    ControlPlane,
    servers::{self, ETCD},
};
use crate::{Object, Process, http::http_post, must::Must, node::address};

/// A key outside what the API server looks at (`/test` in base64).
const KEY: &str = "L3Rlc3Q=";
/// Objects of one transaction; etcd takes 128.
const BATCH: usize = 100;

impl ControlPlane {
    /// Moves the store on by one revision that belongs to no object, and returns it.
    pub(super) fn touch_store(&self) -> String {
        let answer = self.ask_etcd("/v3/kv/put", &json!({"key": KEY}));
        answer["header"]["revision"].as_str().must("learn the revision of etcd").to_owned()
    }

    /// Stops the servers, keeps a copy of the data and starts them again.
    pub fn save_store(&mut self) {
        self.stop_store();
        let (data, copy) = (self.data(), self.copy());
        let status = Command::new("cp").arg("-a").args([&data, &copy]).status().must("start cp");
        assert!(status.success(), "cp fails: {status}");
        self.start_store();
        self.start_api_server();
    }

    /// Puts the copy in force, as an administrator restores etcd after a loss: what was written since is gone, and its
    /// versions are given a second time.
    pub fn restore_store(&mut self) {
        self.stop_store();
        fs::remove_dir_all(self.data()).must("remove the data of etcd");
        fs::rename(self.copy(), self.data()).must("put the copy in its place");
        self.start_store();
        self.start_api_server();
    }

    pub(super) fn start_store(&mut self) {
        self.etcd = Some(Process::start("etcd", &mut servers::etcd(&self.place, &self.data())).brief());
    }

    fn stop_store(&mut self) {
        self.stop_api_server();
        self.etcd.take().must("stop etcd: it is not running").kill();
    }

    fn data(&self) -> PathBuf {
        self.files.path().join("etcd")
    }

    fn copy(&self) -> PathBuf {
        self.files.path().join("etcd-copy")
    }

    /// Makes etcd forget all that was before now, as the API server does every five minutes. It keeps the
    /// latest changes in memory, so its watches need not notice: see [`ControlPlane::expire_watches`].
    pub fn compact(&self) {
        let revision = self.touch_store();
        self.ask_etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    /// Puts objects where the API server keeps them, as they are: it decodes JSON as well as its own encoding. Nothing
    /// admits, checks or completes them. It must not run meanwhile: a hundred of them share a resource version, and a
    /// watch that is resumed between two of these never tells of the second.
    pub(super) fn put_into_store(&self, objects: impl Iterator<Item = Object>) {
        let mut puts = objects.map(|object| {
            let (key, value) = (store_key(&object).into_bytes(), object.json().into_bytes());
            json!({"requestPut": {"key": ByteString(key), "value": ByteString(value)}})
        });
        loop {
            let batch: Vec<Value> = puts.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return;
            }
            self.ask_etcd("/v3/kv/txn", &json!({"success": batch}));
        }
    }

    fn ask_etcd(&self, path: &str, request: &Value) -> Value {
        let answer = self.netns.run(|| http_post(address(ETCD), path, &request.to_string()));
        let (status, body) = answer.must("talk to etcd");
        assert_eq!(status, 200, "etcd refuses {path}: {body}");
        serde_json::from_str(&body).must("read etcd's answer")
    }
}

/// Where the API server looks for an object.
fn store_key(object: &Object) -> String {
    let name = object.name();
    match object.at("/kind").as_str() {
        Some("Node") => format!("/registry/minions/{name}"),
        Some("Pod") => format!("/registry/pods/{}/{name}", object.namespace()),
        other => panic!("the place of a {other:?} in the store is not known here"),
    }
}
