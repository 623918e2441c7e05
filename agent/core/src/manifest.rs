//! Manifest text → [`Object`]s and problems.
//!
//! It owns the reading of Kubernetes objects from YAML and JSON: several documents in one text, lists,
//! the lenient reduction of Pods, Nodes and Services, and the strict validation of policies (`policy`).
//! It is pure: no files, no clock, no logging. What is wrong is returned as data, so that one bad object
//! never hides the others; only text that is no YAML or JSON at all is an error.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    path::Path,
};

use balancing_abi::model::PolicyKind;
use serde_json::{Value, value::RawValue};

use crate::{
    names::{GROUP, VERSION},
    objects::{Object, ObjectKey, ObjectRef, PolicyRef},
};

use document::{Document, Header};
use notes::Notes;

mod document;
mod fabric;
mod field;
mod metadata;
pub mod name;
mod network;
mod node;
mod notes;
mod pod;
mod policy;
pub mod raw;
mod service;
mod slice;
mod strict;
#[cfg(test)]
mod tests;

/// Lists inside lists; Kubernetes itself never nests them.
const MAX_LIST_DEPTH: usize = 4;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON document, or several one after the other.
    Json,
    /// YAML documents separated by `---`.
    Yaml,
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The objects in the order of the text; every key appears once.
    pub objects: Vec<Object>,
    /// What could not be read, in the order of the text. A policy with a broken spec is not among them: it is an
    /// object that carries its problems.
    pub problems: Vec<ManifestProblem>,
    /// Objects that are named in the text but could not be read. What was known of them still stands.
    pub unreadable: BTreeSet<ObjectKey>,
    /// Kinds that mean nothing to this agent, as `kind (apiVersion)`.
    pub ignored: BTreeSet<String>,
}

/// One thing that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProblem {
    /// The object, such as `Pod default/web-0`, or its place in the text.
    pub object: String,
    /// The field, the rule and what became of it, in one line.
    pub message: String,
}

/// The text is not written in its format.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML.
    #[error("document {document} is not valid YAML: {source}")]
    Yaml {
        /// Counted from 1.
        document: usize,
        /// What the parser says, with line and column.
        source: yaml_serde::Error,
    },
    /// Not JSON.
    #[error("document {document} is not valid JSON: {source}")]
    Json {
        /// Counted from 1.
        document: usize,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
}

impl Format {
    /// The format that the extension of a file name stands for: `yaml`, `yml` or `json`.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// Reads all objects of a text.
///
/// # Errors
///
/// When the text is not valid in its format; nothing of it is returned then.
pub fn parse(text: &str, format: Format) -> Result<Manifest, ManifestError> {
    let mut reader = Reader::default();
    document::for_each(text, format, |number, document| {
        reader.read(document, &Place { document: number, item: None }, None, 0);
    })?;
    Ok(reader.manifest)
}

/// Reads one object that an API server sent. Its lists leave out apiVersion and kind of their items, so the
/// caller says what it asked for.
#[must_use]
pub fn read_one(text: &RawValue, api_version: &str, kind: &str) -> Manifest {
    read_document(Document::Text(text), api_version, kind)
}

/// As [`read_one`], for an object that is a tree already.
#[must_use]
pub fn read_tree(tree: Value, api_version: &str, kind: &str) -> Manifest {
    read_document(Document::Tree(tree), api_version, kind)
}

fn read_document(document: Document<'_>, api_version: &str, kind: &str) -> Manifest {
    let asked =
        Header { api_version: api_version.to_owned(), kind: format!("{kind}List"), ..Header::default() };
    let mut reader = Reader::default();
    reader.read(document, &Place { document: 1, item: None }, Some(&asked), 0);
    reader.manifest
}

/// Where an object stands in the text.
#[derive(Clone, Copy)]
struct Place {
    /// Counted from 1.
    document: usize,
    /// Index in `items` of a list.
    item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        self.item.map_or(Ok(()), |i| write!(f, " items[{i}]"))
    }
}

/// The kinds that become objects.
#[derive(Clone, Copy)]
enum Kind {
    Pod,
    Node,
    Service,
    Slice,
    Policy(PolicyKind),
    Fabric,
    Member,
    ExternalHost,
    Claim,
}

/// What a kind and an apiVersion mean together.
enum Meaning {
    Known(Kind),
    Ignored,
    /// Ours, but not like this.
    Wrong(String),
}

#[derive(Default)]
struct Reader {
    manifest: Manifest,
    seen: HashSet<ObjectKey>,
}

impl Reader {
    /// Reads one document; `inherited` is what the items of a typed list may leave out.
    fn read(&mut self, document: Document<'_>, place: &Place, inherited: Option<&Header>, depth: usize) {
        let mut header = match document.header() {
            Ok(header) => header,
            Err(message) => return self.problem(place.to_string(), message),
        };
        if let Some(list) = inherited {
            header.inherit(list);
        }
        if header.kind.is_empty() {
            return self.problem(
                place.to_string(),
                "kind is missing; every object needs apiVersion and kind".into(),
            );
        }
        if header.is_list {
            return self.read_items(document, place, &header, depth);
        }
        match header.meaning() {
            Meaning::Known(kind) => self.read_object(kind, document, &header, place),
            Meaning::Ignored => {
                self.manifest.ignored.insert(header.to_string());
            }
            Meaning::Wrong(message) => self.problem(header.title(place), message),
        }
    }

    fn read_items(&mut self, document: Document<'_>, place: &Place, header: &Header, depth: usize) {
        if depth == MAX_LIST_DEPTH {
            let message = format!("lists are nested more than {MAX_LIST_DEPTH} deep; move the items up");
            return self.problem(place.to_string(), message);
        }
        match document.into_items() {
            Ok(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    let place = Place { item: Some(index), ..*place };
                    self.read(item, &place, Some(header), depth + 1);
                }
            }
            Err(message) => self.problem(place.to_string(), message),
        }
    }

    fn read_object(&mut self, kind: Kind, document: Document<'_>, header: &Header, place: &Place) {
        if header.name.is_empty() {
            let message = "metadata.name is missing or not a string; every object needs a name".into();
            return self.problem(header.title(place), message);
        }
        let key = header.key(kind);
        if !self.seen.insert(key.clone()) {
            let message = "appears twice in this file; the first one counts, remove the other".into();
            return self.problem(header.title(place), message);
        }
        let mut notes = Notes::default();
        let object = match kind {
            Kind::Pod => pod::read(&document, &mut notes).map(Object::Pod),
            Kind::Node => node::read(&document, &mut notes).map(Object::Node),
            Kind::Service => service::read(&document, &mut notes).map(Object::Service),
            // The slices of others say nothing to us.
            Kind::Slice => match slice::read(&document, &mut notes) {
                Ok(None) => {
                    self.manifest.ignored.insert(header.to_string());
                    return;
                }
                Ok(Some(endpoints)) => Ok(Object::Endpoints(endpoints)),
                Err(message) => Err(message),
            },
            Kind::Fabric => Ok(Object::Fabric(fabric::read(&header.name, document.into_tree()))),
            Kind::Member => Ok(Object::Member(fabric::read_member(&header.name, document.into_tree()))),
            Kind::ExternalHost => {
                Ok(Object::ExternalHost(fabric::read_external_host(&header.name, document.into_tree())))
            }
            Kind::Claim => Ok(Object::Claim(fabric::read_claim(&header.name, document.into_tree()))),
            Kind::Policy(kind) => Ok(Object::Policy(policy::read(kind, &header.name, document.into_tree()))),
        };
        match object {
            Ok(object) => self.manifest.objects.push(object),
            Err(message) => {
                notes.push(message);
                self.manifest.unreadable.insert(key);
            }
        }
        for message in notes.into_messages() {
            self.problem(header.title(place), message);
        }
    }

    fn problem(&mut self, object: String, message: String) {
        self.manifest.problems.push(ManifestProblem { object, message });
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.api_version)
    }
}

impl Header {
    fn inherit(&mut self, list: &Self) {
        if self.api_version.is_empty() {
            self.api_version.clone_from(&list.api_version);
        }
        if self.kind.is_empty() {
            self.kind = list.kind.strip_suffix("List").unwrap_or_default().to_owned();
        }
    }

    fn meaning(&self) -> Meaning {
        let kind = match self.kind.as_str() {
            "Pod" => Kind::Pod,
            "Node" => Kind::Node,
            "Service" => Kind::Service,
            "EndpointSlice" => Kind::Slice,
            "LocalRedirectPolicy" => Kind::Policy(PolicyKind::LocalRedirect),
            "BalancingPolicy" => Kind::Policy(PolicyKind::Balancing),
            "TunnelFabric" => Kind::Fabric,
            "TunnelNode" => Kind::Member,
            "TunnelAddressClaim" => Kind::Claim,
            "ExternalHost" => Kind::ExternalHost,
            // A mistyped kind of ours must not pass for one of others.
            _ if self.api_version.starts_with(&format!("{GROUP}/")) => {
                return Meaning::Wrong(format!(
                    "kind {} of {} is unknown to this version; it is ignored. Known are {} and {}: correct the kind",
                    self.kind,
                    self.api_version,
                    "LocalRedirectPolicy, BalancingPolicy, TunnelFabric, TunnelNode, TunnelAddressClaim",
                    "ExternalHost"
                ));
            }
            _ => return Meaning::Ignored,
        };
        let (group, wanted) = match kind {
            Kind::Policy(_) | Kind::Fabric | Kind::Member | Kind::ExternalHost | Kind::Claim => {
                (GROUP, format!("{GROUP}/{VERSION}"))
            }
            Kind::Slice => ("discovery.k8s.io", "discovery.k8s.io/v1".to_owned()),
            Kind::Pod | Kind::Node | Kind::Service => ("", "v1".to_owned()),
        };
        match self.api_version.as_str() {
            found if found == wanted => Meaning::Known(kind),
            "" => Meaning::Wrong(format!("apiVersion is missing; write apiVersion: {wanted}")),
            found if found.split_once('/').map_or("", |(group, _)| group) == group => {
                Meaning::Wrong(format!("apiVersion must be {wanted}, found {found:?}; convert the object"))
            }
            _ => Meaning::Ignored,
        }
    }

    fn key(&self, kind: Kind) -> ObjectKey {
        let namespaced =
            || ObjectRef { namespace: namespace_or_default(&self.namespace), name: self.name.clone() };
        match kind {
            Kind::Pod => ObjectKey::Pod(namespaced()),
            Kind::Service => ObjectKey::Service(namespaced()),
            Kind::Slice => ObjectKey::Endpoints(namespaced()),
            Kind::Node => ObjectKey::Node(self.name.clone()),
            Kind::Fabric => ObjectKey::Fabric(self.name.clone()),
            Kind::Member => ObjectKey::Member(self.name.clone()),
            Kind::ExternalHost => ObjectKey::ExternalHost(self.name.clone()),
            Kind::Claim => ObjectKey::Claim(self.name.clone()),
            Kind::Policy(kind) => ObjectKey::Policy(PolicyRef { kind, name: self.name.clone() }),
        }
    }

    fn title(&self, place: &Place) -> String {
        match (self.namespace.as_str(), self.name.as_str()) {
            (_, "") => format!("{} in {place}", self.kind),
            ("", name) => format!("{} {name}", self.kind),
            (namespace, name) => format!("{} {namespace}/{name}", self.kind),
        }
    }
}

/// The namespace of an object that names none (Kubernetes, `metav1.NamespaceDefault`).
fn namespace_or_default(namespace: &str) -> String {
    if namespace.is_empty() { "default".to_owned() } else { namespace.to_owned() }
}
