//! A container runtime that answers over its socket what a test wants it to.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread::{self, JoinHandle},
};

use futures::{
    future::{self, BoxFuture},
    stream,
};
use prost::Message;
use tokio::{net::UnixListener, sync::oneshot};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// What it says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) name: String,
    pub(crate) version: String,
    /// `cniconfig` of its verbose status.
    pub(crate) config: Option<String>,
    /// `lastCNILoadStatus`.
    pub(crate) load_status: Option<String>,
}

/// The runtime. It listens until it is dropped.
pub(crate) struct Cri {
    answers: Arc<Mutex<Answers>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cri {
    pub(crate) fn start(socket: &Path, answers: Answers) -> Self {
        std::fs::remove_file(socket).ok();
        let answers = Arc::new(Mutex::new(answers));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let service = RuntimeService(Arc::clone(&answers));
        let serve = async move {
            let incoming = stream::unfold(listener, |listener| async {
                Some((listener.accept().await.map(|(stream, _)| stream), listener))
            });
            let server = pin!(Server::builder().add_service(service).serve_with_incoming(incoming));
            // Connections that are open end with it, as when a runtime is killed.
            future::select(server, stopped).await;
        };
        let thread = thread::spawn(move || runtime.block_on(serve));
        Self { answers, stop: Some(stop), thread: Some(thread) }
    }

    /// Answers otherwise from now on.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// Any request: none of their fields is read.
#[derive(Clone, PartialEq, Message)]
struct Anything {}

#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
    #[prost(string, tag = "4")]
    runtime_api_version: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone)]
struct RuntimeService(Arc<Mutex<Answers>>);

impl NamedService for RuntimeService {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

/// One answer.
struct Answer<A>(A);

impl<A: Message + Default + Clone + 'static> UnaryService<Anything> for Answer<A> {
    type Response = A;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn call(&mut self, _: Request<Anything>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async { Ok(Response::new(answer)) })
    }
}

async fn answer<A: Message + Default + Clone + 'static>(
    answer: A,
    request: http::Request<Body>,
) -> http::Response<Body> {
    Grpc::new(ProstCodec::<A, Anything>::default()).unary(Answer(answer), request).await
}

impl Service<http::Request<Body>> for RuntimeService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answers = self.0.lock().unwrap().clone();
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next() {
                Some("Version") => {
                    let version = VersionResponse {
                        version: "0.1.0".to_owned(),
                        runtime_name: answers.name,
                        runtime_version: answers.version,
                        runtime_api_version: "v1".to_owned(),
                    };
                    answer(version, request).await
                }
                Some("Status") => {
                    let told = [("cniconfig", answers.config), ("lastCNILoadStatus", answers.load_status)];
                    let told = told.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?)));
                    answer(StatusResponse { info: told.collect() }, request).await
                }
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}
