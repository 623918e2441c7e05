//! A server that speaks as much of the Kubernetes API as a source asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::Response,
};
use futures::stream::unfold;
use kube::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::client::Connection;

/// Objects in a page.
const PAGE: usize = 2;

/// The server; it ends with this value.
pub(super) struct Fake {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    task: Option<JoinHandle<()>>,
}

/// What the server does otherwise than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quirk {
    /// Lists are given in pages only, as by a server without streams.
    PagesOnly,
    /// A stream ends after its first object.
    CutsStreams,
    /// A stream never tells that its list is complete.
    WithholdsMarks,
    /// After its list a stream says that its version is too old.
    ForgetsAtOnce,
    /// A watch, also that of a stream, ends after one line.
    CutsWatches,
    /// An object is deleted while it is being listed.
    DeletesMeanwhile,
}

/// What the server knows.
#[derive(Default)]
pub(super) struct World {
    version: u64,
    /// Versions up to this one are too old for a watch.
    forgotten: u64,
    objects: BTreeMap<(String, String), Value>,
    /// Type and object by resource and version.
    events: Vec<(String, u64, &'static str, Value)>,
    watchers: Vec<(String, mpsc::UnboundedSender<String>)>,
    pub(super) quirk: Option<Quirk>,
    /// Requests for streams, and for watches.
    pub(super) asked: (usize, usize),
    /// Statuses by resource instead of an answer.
    pub(super) answers: BTreeMap<&'static str, u16>,
    /// Path and query of all requests.
    pub(super) requests: BTreeSet<String>,
}

impl Fake {
    /// A server that is not there yet.
    pub(super) async fn away() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, world: Arc::default(), task: None }
    }

    /// A server.
    pub(super) async fn start() -> Self {
        let mut fake = Self::away().await;
        fake.arrive().await;
        fake
    }

    pub(super) async fn arrive(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.world));
        self.task = Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    pub(super) fn connection(&self) -> Connection {
        let server = format!("http://{}", self.address);
        let mut config = kube::Config::new(server.parse().unwrap());
        config.default_retry = false;
        Connection {
            client: Client::try_from(config).unwrap(),
            namespace: "own".to_owned(),
            description: format!("kube:{server}"),
            server,
            problem: tokio::sync::watch::channel(None).1,
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl World {
    /// Creates or replaces an object.
    pub(super) fn put(&mut self, resource: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let old = self.objects.insert((resource.to_owned(), name), object.clone());
        self.tell(resource, if old.is_some() { "MODIFIED" } else { "ADDED" }, object);
    }

    /// Deletes an object.
    pub(super) fn delete(&mut self, resource: &str, name: &str) {
        self.version += 1;
        let mut object = self.objects.remove(&(resource.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(resource, "DELETED", object);
    }

    fn tell(&mut self, resource: &str, what: &'static str, object: Value) {
        let line = line(what, &object);
        self.watchers.retain(|(watched, watcher)| watched != resource || watcher.send(line.clone()).is_ok());
        self.events.push((resource.to_owned(), self.version, what, object));
    }

    /// Ends all watches; they come back.
    pub(super) fn end_watches(&mut self) {
        self.watchers.clear();
    }

    /// Forgets what happened: versions that are known now are too old.
    pub(super) fn forget(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.events.clear();
    }

    /// Number of watches that stand.
    pub(super) fn watches(&mut self) -> usize {
        self.watchers.retain(|(_, watcher)| !watcher.is_closed());
        self.watchers.len()
    }

    /// Its data become those of an earlier version, without these objects.
    pub(super) fn go_back(&mut self, version: u64, without: &[&str]) {
        self.version = version;
        self.events.clear();
        self.objects.retain(|(_, name), _| !without.contains(&name.as_str()));
        self.end_watches();
    }

    fn all(&self, resource: &str) -> Vec<&Value> {
        self.objects.iter().filter(|((of, _), _)| of == resource).map(|(_, object)| object).collect()
    }

    fn list(&self, resource: &str, from: usize) -> Value {
        let all = self.all(resource);
        let items: Vec<_> = all.iter().skip(from).take(PAGE).collect();
        let next = from + items.len();
        let token = if next < all.len() { next.to_string() } else { String::new() };
        json!({"kind": "List", "apiVersion": "v1", "items": items,
               "metadata": {"resourceVersion": self.version.to_string(), "continue": token}})
    }

    /// Everything that exists, a mark, and what happens after.
    fn stream(&mut self, resource: &str) -> Body {
        let (sender, receiver) = mpsc::unbounded_channel();
        let cut = if self.quirk == Some(Quirk::CutsStreams) { 1 } else { usize::MAX };
        let all = self.all(resource);
        all.iter().take(cut).for_each(|object| sender.send(line("ADDED", object)).unwrap());
        match (self.quirk, all.first()) {
            (Some(Quirk::CutsStreams), _) => return body(receiver),
            (Some(Quirk::DeletesMeanwhile), Some(first)) => sender.send(line("DELETED", first)).unwrap(),
            _ => {}
        }
        let metadata = json!({"resourceVersion": self.version.to_string(),
                              "annotations": {"k8s.io/initial-events-end": "true"}});
        let mark = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
        if self.quirk != Some(Quirk::WithholdsMarks) {
            sender.send(line("BOOKMARK", &mark)).unwrap();
        }
        match self.quirk {
            Some(Quirk::ForgetsAtOnce) => sender.send(line("ERROR", &status(410))).unwrap(),
            Some(Quirk::CutsWatches) => {}
            _ => self.watchers.push((resource.to_owned(), sender)),
        }
        body(receiver)
    }

    fn watch(&mut self, resource: &str, version: u64) -> Body {
        let (sender, receiver) = mpsc::unbounded_channel();
        if self.quirk == Some(Quirk::CutsWatches) {
            let metadata = json!({"resourceVersion": self.version.to_string()});
            let mark = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
            sender.send(line("BOOKMARK", &mark)).unwrap();
        } else if version < self.forgotten {
            sender.send(line("ERROR", &status(410))).unwrap();
        } else {
            let missed = self.events.iter().filter(|(of, at, ..)| of == resource && *at > version);
            missed.for_each(|(_, _, what, object)| sender.send(line(what, object)).unwrap());
            self.watchers.push((resource.to_owned(), sender));
        }
        body(receiver)
    }
}

fn body(receiver: mpsc::UnboundedReceiver<String>) -> Body {
    Body::from_stream(unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|line| (Ok::<_, std::io::Error>(line), receiver))
    }))
}

fn line(what: &str, object: &Value) -> String {
    format!("{{\"type\":\"{what}\",\"object\":{object}}}\n")
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
           "reason": "Told", "message": format!("told to say {code}")})
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request<Body>) -> Response {
    let mut world = world.lock().unwrap();
    let uri = request.uri();
    world.requests.insert(uri.to_string());
    let resource = uri.path().rsplit('/').next().unwrap().to_owned();
    let query: BTreeMap<_, _> =
        uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    let mut response = Response::builder();
    let is_stream = query.contains_key("sendInitialEvents");
    let refusal = (is_stream && world.quirk == Some(Quirk::PagesOnly)).then_some(&422);
    match (is_stream, query.contains_key("watch")) {
        (true, _) => world.asked.0 += 1,
        (false, true) => world.asked.1 += 1,
        (false, false) => {}
    }
    let body = if let Some(code) = world.answers.get(resource.as_str()).or(refusal) {
        response = response.status(StatusCode::from_u16(*code).unwrap());
        Body::from(status(*code).to_string())
    } else if is_stream {
        world.stream(&resource)
    } else if query.contains_key("watch") {
        world.watch(&resource, number("resourceVersion"))
    } else {
        Body::from(world.list(&resource, usize::try_from(number("continue")).unwrap()).to_string())
    };
    response.body(body).unwrap()
}
