//! Manifests of others → ours: CiliumLocalRedirectPolicy and the policies of the original project.
//!
//! It owns the rules of that translation and says, field by field, what does not carry over. It is pure: text in,
//! objects and notes out; files, streams and exit statuses belong to `balancingctl`. What it returns has passed the
//! validation of `manifest`; what would not is an error that names the field as the user wrote it.

use std::fmt;

use balancing_dataplane::model::PolicyKind;
use serde_json::{Value, json};

use balancing_core::{
    manifest::{
        Format,
        raw::{self, RawObject},
    },
    names::{GROUP, VERSION},
    objects::Policy,
};

mod check;
mod cilium;
mod metadata;
mod node;
mod own;
mod ports;
mod selector;
mod settle;
#[cfg(test)]
mod tests;
mod yaml;

/// Group of the policies of Cilium.
const CILIUM_GROUP: &str = "cilium.io";
/// The version that is understood.
const CILIUM_VERSION: &str = "cilium.io/v2";
/// The kind that is understood.
const CILIUM_KIND: &str = "CiliumLocalRedirectPolicy";

/// One text.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Where it comes from, for messages.
    pub name: &'a str,
    /// The manifests.
    pub text: &'a str,
    /// How they are written.
    pub format: Format,
}

/// How much a [`Note`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The same meaning stands in another place, or nothing is to be done.
    Note,
    /// Something does not carry over or changes its meaning.
    Warning,
    /// The object is not converted.
    Error,
}

/// What the user should know about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: Level,
    /// [`Input::name`]
    pub source: String,
    /// Kind and name as the input has them; empty when it is about the whole input.
    pub object: String,
    /// Path of the field as the input has it; empty when it is about the whole object.
    pub field: String,
    /// What happens and what to do, in one line.
    pub message: String,
}

/// What became of the inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversion {
    /// Valid objects of ours, by kind and name.
    pub objects: Vec<Value>,
    /// In the order of the inputs; what concerns several objects comes last.
    pub notes: Vec<Note>,
}

/// Collects the notes about one object.
struct Report<'a> {
    source: &'a str,
    object: &'a str,
    notes: &'a mut Vec<Note>,
    /// Where the notes about this object begin.
    first: usize,
    failed: bool,
}

/// Who wrote an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Ours or the original project's: same group, version and kinds.
    Own,
    /// Cilium.
    Cilium,
}

/// A converted object that is valid by itself.
struct Converted {
    source: String,
    title: String,
    origin: Origin,
    tree: Value,
    policy: Policy,
}

/// Converts the objects of all inputs. `namespace` is that of Cilium's policies that name none.
#[must_use]
pub fn convert(inputs: &[Input<'_>], namespace: Option<&str>) -> Conversion {
    let mut notes = Vec::new();
    let mut converted = Vec::new();
    for input in inputs {
        let mut report = Report::new(input.name, "", &mut notes);
        match raw::read(input.text, input.format) {
            Err(error) => report.error("", error.to_string()),
            Ok(raw) => {
                for problem in raw.problems {
                    Report::new(input.name, &problem.object, &mut notes).error("", problem.message);
                }
                let objects = raw.objects.into_iter();
                converted.extend(objects.filter_map(|object| one(input, namespace, object, &mut notes)));
            }
        }
    }
    if let Some(first) = converted.iter().find(|c| c.origin == Origin::Cilium) {
        let message = "may be changed at any time here; what else is different for all of Cilium's policies stands \
                       in docs/kubernetes.md, Migration";
        Report::new(&first.source, CILIUM_KIND, &mut notes).note("spec", message);
    }
    let objects = settle::settle(converted, &mut notes);
    Conversion { objects, notes }
}

/// Converts one object; `None` when it is not one of ours, or an error was reported.
fn one(
    input: &Input<'_>,
    namespace: Option<&str>,
    object: RawObject,
    notes: &mut Vec<Note>,
) -> Option<Converted> {
    let title = object.title.clone();
    let mut report = Report::new(input.name, &title, notes);
    let (origin, kind) = match meaning(&object) {
        Meaning::Policy(origin, kind) => (origin, kind),
        Meaning::Node => {
            node::explain(&object, &mut report);
            return None;
        }
        Meaning::Wrong(message) => {
            report.error("apiVersion", message);
            return None;
        }
        Meaning::Foreign => return None,
    };
    if object.tree.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        report.warn("metadata.deletionTimestamp", "the object is being deleted; it is left out");
        return None;
    }
    let tree = match origin {
        Origin::Own => own::convert(kind, object, &mut report),
        Origin::Cilium => cilium::convert(object, namespace, &mut report),
    };
    let policy = tree.as_ref().and_then(|tree| check::check(origin, kind, tree, &mut report));
    if policy.is_none() {
        report.forget_notes();
    }
    Some(Converted { source: input.name.to_owned(), title, origin, tree: tree?, policy: policy? })
}

/// What a kind and an apiVersion mean together.
enum Meaning {
    Policy(Origin, PolicyKind),
    Node,
    /// A kind that is understood, in a version that is not.
    Wrong(String),
    Foreign,
}

fn meaning(object: &RawObject) -> Meaning {
    let (origin, kind, group, wanted) = match object.kind.as_str() {
        "LocalRedirectPolicy" => {
            (Origin::Own, PolicyKind::LocalRedirect, GROUP, format!("{GROUP}/{VERSION}"))
        }
        "BalancingPolicy" => (Origin::Own, PolicyKind::Balancing, GROUP, format!("{GROUP}/{VERSION}")),
        CILIUM_KIND => (Origin::Cilium, PolicyKind::LocalRedirect, CILIUM_GROUP, CILIUM_VERSION.to_owned()),
        "Node" if object.api_version == "v1" => return Meaning::Node,
        _ => return Meaning::Foreign,
    };
    match object.api_version.as_str() {
        found if found == wanted => Meaning::Policy(origin, kind),
        "" => Meaning::Wrong(format!("is missing; write {wanted}")),
        found if found.split_once('/').is_some_and(|(found, _)| found == group) => {
            Meaning::Wrong(format!("must be {wanted}, found {found:?}; write the object in that version"))
        }
        _ => Meaning::Foreign,
    }
}

impl<'a> Report<'a> {
    fn new(source: &'a str, object: &'a str, notes: &'a mut Vec<Note>) -> Self {
        let first = notes.len();
        Self { source, object, notes, first, failed: false }
    }

    /// Whether an error was reported for exactly this field.
    fn has_error(&self, field: &str) -> bool {
        let mut own = self.notes.iter().skip(self.first);
        own.any(|note| note.level == Level::Error && note.field == field)
    }

    /// Keeps only what is wrong: what would have become of the rest is of no use.
    fn forget_notes(&mut self) {
        let own = self.notes.split_off(self.first);
        self.notes.extend(own.into_iter().filter(|note| note.level > Level::Note));
    }

    fn note(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.add(Level::Note, &field, &message);
    }

    fn warn(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.add(Level::Warning, &field, &message);
    }

    fn error(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.failed = true;
        self.add(Level::Error, &field, &message);
    }

    fn add(&mut self, level: Level, field: &dyn fmt::Display, message: &dyn fmt::Display) {
        self.notes.push(Note {
            level,
            source: self.source.to_owned(),
            object: self.object.to_owned(),
            field: field.to_string(),
            message: message.to_string(),
        });
    }
}

impl Conversion {
    /// The objects as YAML documents.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let documents: Vec<_> = self.objects.iter().map(yaml::document).collect();
        documents.join("---\n")
    }

    /// The objects as one JSON list.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "items": self.objects}))
    }

    /// Whether anything was reported at this level or above.
    #[must_use]
    pub fn has(&self, level: Level) -> bool {
        self.notes.iter().any(|note| note.level >= level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for part in [&self.source, &self.object, &self.field, &self.message] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}
