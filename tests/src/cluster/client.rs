//! A client of the API server for what kubectl is too slow for: many objects, measured latencies, watches.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Client, Config,
    api::{DeleteParams, DynamicObject, GetParams, ListParams, Patch, PatchParams, PostParams, Request},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind, Resource as _, TypeMeta},
    discovery::{self, Scope},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{NetNs, Object, must::Must};

/// Requests under way at once when there are many to make.
const CONCURRENCY: usize = 32;
/// Field manager of everything a test writes.
const MANAGER: &str = "test";

/// A user of the API server. Calls block until the answer is there; connections stay open between them.
///
/// Objects are whole Kubernetes objects in JSON. A `status` in what is created or put goes through the
/// status subresource, as the one who owns it would write it.
pub struct ApiClient {
    session: Session,
    runtime: Handle,
    /// Its end ends the runtime.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status; 0 when there was no answer.
    pub code: u16,
    /// One word of the API server, such as `NotFound`.
    pub reason: String,
    /// What it says to people.
    pub message: String,
}

impl ApiClient {
    /// A user by kubeconfig, whose connections are made from a network namespace.
    #[must_use]
    pub fn new(namespace: &NetNs, kubeconfig: &Path) -> Self {
        let (ready, started) = mpsc::channel();
        let kubeconfig = kubeconfig.to_owned();
        // A connection is made by the thread that runs the request: all of them run on this one.
        let thread = namespace.spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().must("start tokio");
            let client = runtime.block_on(connect(&kubeconfig));
            let (stop, stopped) = oneshot::channel();
            ready.send((runtime.handle().clone(), client, stop)).must("hand the client over");
            // An error says that the sender is gone, which is the signal.
            runtime.block_on(stopped).ok();
        });
        let (runtime, client, stop) = started.recv().must("start a client");
        let session = Session { client, resources: Arc::default() };
        Self { session, runtime, stop: Some(stop), thread: Some(thread) }
    }

    /// The client of the crate `kube`, for futures that [`ApiClient::run`] drives.
    #[must_use]
    pub fn kube(&self) -> Client {
        self.session.client.clone()
    }

    /// Runs a future to its end.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.runtime.spawn(async move {
            // Nobody waits any more when the test has failed.
            done.send(future.await).ok();
        });
        result.recv().must("end a request: it panicked")
    }

    /// Runs a future in the background, at the latest until the client's end.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// The body of any path, such as `/readyz`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn text(&self, path: &str) -> Result<String, Refusal> {
        let (session, path) = (self.session.clone(), path.to_owned());
        self.run(async move { session.text(&path).await })
    }

    /// Creates an object and returns it as stored.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn create(&self, object: &Object) -> Result<Object, Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move { session.create(&object).await })
    }

    /// Whether an object could be created: the API server checks it strictly, as for kubectl, and keeps nothing.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn check(&self, object: &Object) -> Result<(), Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move { session.check(&object).await })
    }

    /// Creates many objects, several at a time, and returns them in order.
    ///
    /// # Errors
    /// The first refusal; what comes after it may or may not exist.
    pub fn create_many(&self, objects: impl IntoIterator<Item = Object>) -> Result<Vec<Object>, Refusal> {
        let session = self.session.clone();
        let objects: Vec<Object> = objects.into_iter().collect();
        self.run(async move {
            let session = &session;
            let requests = objects.into_iter().map(|object| async move { session.create(&object).await });
            stream::iter(requests).buffered(CONCURRENCY).try_collect().await
        })
    }

    /// Makes an object what is given here, whether it exists or not (server-side apply by force). Fields
    /// that an earlier call gave and this one does not are removed.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn put(&self, object: &Object) -> Result<Object, Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move { session.put(object).await })
    }

    /// The object of that kind and name.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn get(&self, object: &Object) -> Result<Object, Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move {
            let request = session.request(&object).await?.get(object.name(), &GetParams::default())?;
            session.send(request).await
        })
    }

    /// All objects of a kind, in all namespaces.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn list(&self, api_version: &str, kind: &str) -> Result<Vec<Object>, Refusal> {
        let (session, object) = (self.session.clone(), Object::named(api_version, kind, "", ""));
        self.run(async move {
            let request = session.request(&object).await?.list(&ListParams::default())?;
            let mut list: Value = session.answer(request).await?;
            let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            Ok(items.into_iter().map(Object::from).collect())
        })
    }

    /// Replaces the status by that of this object, which has the resource version that it was read with.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn replace_status(&self, object: &Object) -> Result<Object, Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move { session.replace_status(&object).await })
    }

    /// Changes some fields of an object, or of a subresource of it such as `status` (empty: of the object).
    /// JSON merge patch: lists are replaced as a whole.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch(&self, object: &Object, subresource: &str, patch: Value) -> Result<Object, Refusal> {
        self.patch_by(object, subresource, Patch::Merge(patch))
    }

    /// As [`ApiClient::patch`], with any kind of patch.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch_by(
        &self,
        object: &Object,
        subresource: &str,
        patch: Patch<Value>,
    ) -> Result<Object, Refusal> {
        let (session, object, subresource) = (self.session.clone(), object.clone(), subresource.to_owned());
        self.run(async move { session.patch(&object, &subresource, &PatchParams::default(), &patch).await })
    }

    /// A token of a ServiceAccount, valid for an hour; bound to an object if one is given.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn token(&self, account: &Object, bound_to: Option<&Object>) -> Result<String, Refusal> {
        let (session, account) = (self.session.clone(), account.clone());
        let bound = bound_to.map(|object| {
            let text = |pointer| object.at(pointer).as_str().unwrap_or_default();
            json!({
                "apiVersion": text("/apiVersion"), "kind": text("/kind"),
                "name": object.name(), "uid": object.uid(),
            })
        });
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [], "boundObjectRef": bound},
        });
        let wanted = wanted.to_string();
        self.run(async move {
            let (request, how) = (session.request(&account).await?, PostParams::default());
            let request = request.create_subresource("token", account.name(), &how, wanted.into_bytes())?;
            let answer = session.send(request).await?;
            Ok(answer.at("/status/token").as_str().unwrap_or_default().to_owned())
        })
    }

    /// Deletes an object at once. A pod is gone as if its kubelet had ended it.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn delete(&self, object: &Object) -> Result<(), Refusal> {
        self.delete_with(object, DeleteParams::default().grace_period(0))
    }

    /// Asks for the end of an object. A pod on a node stays and is terminating, for no kubelet ends it.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn terminate(&self, object: &Object) -> Result<(), Refusal> {
        self.delete_with(object, DeleteParams::default())
    }

    fn delete_with(&self, object: &Object, how: DeleteParams) -> Result<(), Refusal> {
        let (session, object) = (self.session.clone(), object.clone());
        self.run(async move {
            let request = session.request(&object).await?.delete(object.name(), &how)?;
            session.answer::<Value>(request).await.map(drop)
        })
    }
}

impl Drop for ApiClient {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Resources by `apiVersion` and `kind`.
type Resources = BTreeMap<(String, String), (ApiResource, Scope)>;

/// What futures on the client's thread work with.
#[derive(Clone)]
struct Session {
    client: Client,
    /// Kinds looked up so far.
    resources: Arc<Mutex<Resources>>,
}

impl Session {
    async fn create(&self, object: &Object) -> Result<Object, Refusal> {
        let request =
            self.request(object).await?.create(&PostParams::default(), object.json().into_bytes())?;
        let created = self.send(request).await?;
        match object.at("/status") {
            Value::Null => Ok(created),
            status => self.replace_status(&created.with("/status", status.clone())).await,
        }
    }

    async fn check(&self, object: &Object) -> Result<(), Refusal> {
        let how = PostParams { dry_run: true, field_manager: None };
        let mut request = self.request(object).await?.create(&how, object.json().into_bytes())?;
        let strict = format!("{}&fieldValidation=Strict", request.uri());
        *request.uri_mut() = strict.parse().must("extend a path");
        self.answer::<Value>(request).await.map(drop)
    }

    async fn put(&self, mut object: Object) -> Result<Object, Refusal> {
        // A wrong one would be a precondition.
        for given_by_server in ["/metadata/uid", "/metadata/creationTimestamp", "/metadata/managedFields"] {
            object.take(given_by_server);
        }
        let status = object.take("/status");
        let how = PatchParams::apply(MANAGER).force();
        let stored = self.patch(&object, "", &how, &Patch::Apply(object.value().clone())).await?;
        let Some(status) = status else { return Ok(stored) };
        let of = |field| object.at(field).as_str().unwrap_or_default();
        let named = Object::named(of("/apiVersion"), of("/kind"), object.namespace(), object.name());
        let only_status = named.with("/status", status);
        self.patch(&object, "status", &how, &Patch::Apply(only_status.value().clone())).await
    }

    async fn replace_status(&self, object: &Object) -> Result<Object, Refusal> {
        let request = self.request(object).await?;
        let body = object.json().into_bytes();
        let request = request.replace_subresource("status", object.name(), &PostParams::default(), body)?;
        self.send(request).await
    }

    async fn patch(
        &self,
        object: &Object,
        subresource: &str,
        how: &PatchParams,
        patch: &Patch<Value>,
    ) -> Result<Object, Refusal> {
        let request = self.request(object).await?;
        let request = match subresource {
            "" => request.patch(object.name(), how, patch)?,
            _ => request.patch_subresource(subresource, object.name(), how, patch)?,
        };
        self.send(request).await
    }

    async fn text(&self, path: &str) -> Result<String, Refusal> {
        let request = http::Request::get(path).body(Vec::new()).must(format_args!("ask for {path}"));
        Ok(self.client.request_text(request).await?)
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> Result<Object, Refusal> {
        self.answer(request).await.map(Value::into)
    }

    async fn answer<T: DeserializeOwned>(&self, request: http::Request<Vec<u8>>) -> Result<T, Refusal> {
        Ok(self.client.request(request).await?)
    }

    /// Requests about an object's kind in its namespace.
    async fn request(&self, object: &Object) -> Result<Request, Refusal> {
        let (resource, scope) = self.resource(object).await?;
        let namespace =
            Some(object.namespace()).filter(|name| scope == Scope::Namespaced && !name.is_empty());
        Ok(Request::new(DynamicObject::url_path(&resource, namespace)))
    }

    async fn resource(&self, object: &Object) -> Result<(ApiResource, Scope), Refusal> {
        let of = |field| object.at(field).as_str().unwrap_or_default().to_owned();
        let key = (of("/apiVersion"), of("/kind"));
        let known = self.resources.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let types = TypeMeta { api_version: key.0.clone(), kind: key.1.clone() };
        let kind = GroupVersionKind::try_from(types).must(format_args!("read apiVersion {:?}", key.0));
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &kind).await?;
        let found = (resource, capabilities.scope);
        self.resources.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
        Ok(found)
    }
}

async fn connect(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).must(format_args!("read {}", kubeconfig.display()));
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await.must("understand a kubeconfig");
    Client::try_from(config).must("make a client")
}

impl Display for Refusal {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self { code: status.code, reason: status.reason, message: status.message }
            }
            other => Self { code: 0, reason: "NoAnswer".into(), message: format!("{other:?}") },
        }
    }
}

impl From<kube::core::request::Error> for Refusal {
    fn from(error: kube::core::request::Error) -> Self {
        Self { code: 0, reason: "NoRequest".into(), message: error.to_string() }
    }
}
