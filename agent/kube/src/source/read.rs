//! Text that the API server sent → what it says.
//!
//! An object stays text until its few wanted fields are read, so an object of any shape and size costs little and
//! cannot break the list or watch it came in.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::kind::{Form, Kind, Target};
use balancing_core::{
    manifest,
    objects::{Object, ObjectKey},
};

/// Problems of one object that are kept; the rest is a number.
const LISTED_PROBLEMS: usize = 20;

/// A page of a list. The items are texts within the text of the page.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// What leads on from a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next page.
    Page(String),
    /// The list is complete; the version to watch from.
    Watch(String),
}

/// What an object says.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) key: ObjectKey,
    /// `metadata.resourceVersion`
    pub(super) version: String,
    pub(super) content: Content,
    /// What could not be read, one line each.
    pub(super) problems: Vec<String>,
    /// The object as the server sent it, where the consumer wants that.
    pub(super) text: Option<Box<RawValue>>,
}

/// What was read of an object.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are objects")]
pub(super) enum Content {
    Object(Object),
    /// Its last good state stands.
    Unreadable,
    /// It means nothing to the agent.
    Ignored,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
}

impl<'a> Page<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &'a RawValue> {
        self.items.iter().flatten().copied()
    }

    /// The version of the server's data when it answered.
    pub(super) fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    /// `None` when the server says neither what comes next nor which version this is.
    pub(super) fn next(&self) -> Option<Next> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let page = given(&self.metadata.next).map(Next::Page);
        page.or_else(|| given(&self.metadata.resource_version).map(Next::Watch))
    }
}

/// Key of an object, as [`read_key`].
pub(super) fn key_of(kind: Kind, text: &RawValue) -> Option<ObjectKey> {
    let Head { metadata } = serde_json::from_str(text.get()).ok()?;
    Some(kind.key(metadata.namespace, metadata.name))
}

/// Key and version of an object; `None` when it has no name, which no object of an API server lacks.
pub(super) fn read_key(target: &Target, text: &RawValue) -> Option<(ObjectKey, String)> {
    let Head { metadata } = serde_json::from_str(text.get()).ok()?;
    Some((target.kind.key(metadata.namespace, metadata.name), metadata.resource_version))
}

/// The whole object; `None` as for [`read_key`].
pub(super) fn read(target: &Target, text: &RawValue) -> Option<Reading> {
    let (key, version) = read_key(target, text)?;
    let own_text = target.has_texts().then(|| text.to_owned());
    if target.form == Form::Texts {
        return Some(Reading {
            key,
            version,
            content: Content::Ignored,
            problems: Vec::new(),
            text: own_text,
        });
    }
    let mut manifest = manifest::read_one(text, &target.api_version, target.kind.name());
    let more = manifest.problems.len().saturating_sub(LISTED_PROBLEMS);
    let listed = manifest.problems.drain(..).take(LISTED_PROBLEMS).map(|problem| problem.message);
    let mut problems: Vec<_> = listed.collect();
    if more > 0 {
        problems.push(format!("and {more} more problems; correct these first"));
    }
    let content = match manifest.objects.pop() {
        Some(object) => Content::Object(object),
        None if manifest.unreadable.is_empty() => Content::Ignored,
        None => Content::Unreadable,
    };
    Some(Reading { key, version, content, problems, text: own_text })
}
