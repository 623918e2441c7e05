//! A client that goes on with new credentials when their files have changed.
//!
//! Requests look at the files: after a failed one the next, else one every few seconds. So an agent at rest does nothing, and
//! one that is refused uses new credentials with its next attempt. Only broken credentials are looked at by the clock. What is under way ends with what it began with. New
//! credentials that cannot be used are told, and the old ones stay.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use kube::{Client, Error, client::Body};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};
use tower::Service;

use super::credentials::{Credentials, Origin, Seen};

/// Least time between two looks while requests succeed.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Sends each request by the client of the newest credentials.
#[derive(Clone)]
pub(super) struct Renewing(Arc<Shared>);

struct Shared {
    origin: Origin,
    newest: Mutex<Newest>,
    /// A request has failed since the last look.
    failed: AtomicBool,
    problem: watch::Sender<Option<String>>,
}

struct Newest {
    client: Client,
    seen: Seen,
    looked: Instant,
    /// The files say something newer than the client knows, which cannot be used.
    broken: bool,
}

impl Renewing {
    /// Begins with a client of credentials that were just read. The receiver has what is wrong with newer ones.
    pub(super) fn new(origin: Origin, seen: Seen, client: Client) -> (Self, watch::Receiver<Option<String>>) {
        let (problem, receiver) = watch::channel(None);
        let newest = Mutex::new(Newest { client, seen, looked: Instant::now(), broken: false });
        (Self(Arc::new(Shared { origin, newest, failed: AtomicBool::new(false), problem })), receiver)
    }
}

impl Service<Request<Body>> for Renewing {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let what = format!("{} {}", request.method(), request.uri().path());
            let outcome = shared.client().await.send(request).await;
            match &outcome {
                Ok(response) => tracing::debug!("{what}: {}", response.status()),
                Err(error) => tracing::debug!("{what}: {error:?}"),
            }
            if outcome.as_ref().map_or(true, |response| response.status() == StatusCode::UNAUTHORIZED) {
                shared.failed.store(true, Relaxed);
            }
            outcome
        })
    }
}

impl Shared {
    async fn client(self: &Arc<Self>) -> Client {
        let mut newest = self.newest.lock().await;
        let was_broken = newest.broken;
        if self.failed.swap(false, Relaxed) || newest.looked.elapsed() >= PAUSE {
            newest.look(&self.origin, &self.problem).await;
        }
        if newest.broken && !was_broken {
            tokio::spawn(look_again(Arc::downgrade(self)));
        }
        newest.client.clone()
    }
}

/// Looks until broken credentials are mended: watches that stand may send no request for minutes.
async fn look_again(shared: Weak<Shared>) {
    loop {
        sleep(PAUSE).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut newest = shared.newest.lock().await;
        if newest.broken {
            newest.look(&shared.origin, &shared.problem).await;
        }
        if !newest.broken {
            return;
        }
    }
}

impl Newest {
    async fn look(&mut self, origin: &Origin, problem: &watch::Sender<Option<String>>) {
        self.looked = Instant::now();
        if !self.broken && self.seen.is_current() {
            return;
        }
        let (seen, outcome) = origin.read().await;
        self.seen = seen;
        let news = match outcome.and_then(Credentials::client) {
            Ok(client) => {
                self.client = client;
                tracing::info!("the credentials for the API server were read anew");
                None
            }
            Err(error) => Some(format!("{error}; what was read before stays in use")),
        };
        self.broken = news.is_some();
        problem.send_if_modified(|old| {
            let changed = *old != news;
            *old = news;
            changed
        });
    }
}
