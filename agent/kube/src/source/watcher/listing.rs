//! Lists of a watch: as a stream or in pages.

use kube::Error;

use super::{Open, Signal, State, Watch};
use crate::source::{
    failure::{Verb, judge},
    read::{Next, Page, Reading, read},
};

impl Watch {
    /// Asks for a list as a stream.
    pub(super) async fn stream(&mut self) -> Option<Signal> {
        let error = match self.open(self.target.stream()).await {
            Ok((lines, until)) => {
                self.state = State::Open(Open::listing(lines, until));
                return None;
            }
            Err(error) => error,
        };
        if is_about_streams(&error) {
            self.turn_to_pages(&error.to_string());
            return None;
        }
        self.fail(State::List { token: None }, judge(self.target.kind, Verb::Watch, &error))
    }

    /// Asks for a page.
    pub(super) async fn list(&mut self, token: Option<String>) -> Option<Signal> {
        let first = token.is_none();
        let (next, objects) = match self.fetch(token.clone()).await {
            Ok(page) => page,
            Err(error) => {
                return self.fail(State::List { token }, judge(self.target.kind, Verb::List, &error));
            }
        };
        self.answered();
        self.count_objects(first, objects.len());
        let last = match &next {
            Next::Page(_) => None,
            Next::Watch(version) => {
                self.count_list();
                Some(version.clone())
            }
        };
        self.state = match next {
            Next::Page(token) => State::List { token: Some(token) },
            Next::Watch(version) => State::Start { version },
        };
        Some(Signal::Page { first, last, objects })
    }

    async fn fetch(&mut self, token: Option<String>) -> Result<(Next, Vec<Reading>), Error> {
        let text = self.client.request_text(self.target.list(token)?).await?;
        let page = Page::parse(&text).map_err(Error::SerdeError)?;
        let next = page.next().ok_or_else(|| {
            Error::SerdeError(serde::de::Error::custom("the list has no metadata.resourceVersion"))
        })?;
        let objects = page.items().filter_map(|item| self.named(read(&self.target, item))).collect();
        Ok((next, objects))
    }

    /// Asks how new the data of the server is: where they are older than what was heard, everything is listed again.
    pub(super) async fn check(&mut self, version: String) -> Option<Signal> {
        let newest = match self.newest().await {
            Ok(newest) => newest,
            Err(error) => {
                return self.fail(State::Check { version }, judge(self.target.kind, Verb::List, &error));
            }
        };
        self.answered();
        if is_older(newest.as_deref(), &version) {
            let kind = self.target.kind.name();
            tracing::warn!(
                kind,
                heard = version,
                ?newest,
                "the data of the API server went back; listed anew"
            );
            return None;
        }
        self.state = State::Start { version };
        None
    }

    async fn newest(&mut self) -> Result<Option<String>, Error> {
        let text = self.client.request_text(self.target.probe()?).await?;
        let page = Page::parse(&text).map_err(Error::SerdeError)?;
        Ok(page.version().map(str::to_owned))
    }
}

/// With the feature gate `WatchList` off, as by default before Kubernetes 1.32 and in 1.33, a server refuses the request as
/// invalid. One whose cache cannot make sure how new it is answers 504; for a page it asks etcd.
fn is_about_streams(error: &Error) -> bool {
    matches!(error, Error::Api(status) if [400, 422, 504].contains(&status.code))
}

/// Versions are numbers that grow (Kubernetes 1.35, "Resource versions"); what is none says nothing.
fn is_older(newest: Option<&str>, heard: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    newest.and_then(number).zip(number(heard)).is_some_and(|(newest, heard)| newest < heard)
}
