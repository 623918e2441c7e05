//! What the API server has, as text, without what says nothing to an agent.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    super::{Event, Kind, Text, merge::object_kind, read::key_of},
    file::{FileError, LARGEST, VERSION, Whose},
};
use balancing_core::objects::ObjectKey;

/// The objects of every kind.
#[derive(Debug, Default)]
pub(super) struct Texts {
    kinds: BTreeMap<Kind, Listed>,
    size: usize,
    /// The file does not have it like this.
    changed: bool,
}

/// The objects of a kind.
#[derive(Debug, Default)]
struct Listed {
    objects: BTreeMap<ObjectKey, Box<RawValue>>,
    /// A list that has not ended.
    coming: BTreeMap<ObjectKey, Box<RawValue>>,
    /// A list has ended.
    is_whole: bool,
}

/// The file.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    #[serde(flatten)]
    whose: &'a Whose,
    objects: BTreeMap<&'a str, Vec<&'a RawValue>>,
}

impl Texts {
    /// Takes in what the server says of an object or a list.
    pub(super) fn take(&mut self, Text { kind, event }: Text) {
        let listed = self.kinds.entry(kind).or_default();
        match event {
            Event::Begin => listed.coming.clear(),
            Event::Listed(text) => listed.coming.extend(slim(kind, &text)),
            Event::End(_) => {
                let new = std::mem::take(&mut listed.coming);
                self.changed |= !listed.is_whole || !is_same(&listed.objects, &new);
                self.size = self.size.saturating_sub(length(&listed.objects)) + length(&new);
                (listed.objects, listed.is_whole) = (new, true);
            }
            Event::Put(text) => {
                let Some((key, text)) = slim(kind, &text) else { return };
                self.size += text.get().len();
                let new = text.get().to_owned();
                let old = listed.objects.insert(key, text);
                self.changed |= old.as_ref().is_none_or(|old| old.get() != new);
                self.size = self.size.saturating_sub(old.map_or(0, |old| old.get().len()));
            }
            Event::Gone(text) => {
                let old = key_of(kind, &text).and_then(|key| listed.objects.remove(&key));
                self.changed |= old.is_some();
                self.size = self.size.saturating_sub(old.map_or(0, |old| old.get().len()));
            }
        }
    }

    /// Whether the server has it.
    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.kinds.values().any(|listed| listed.objects.contains_key(key))
    }

    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Says whether the file has it as it is.
    pub(super) fn set_changed(&mut self, changed: bool) {
        self.changed = changed;
    }

    /// The text of the file.
    pub(super) fn document(&self, whose: &Whose) -> Result<Vec<u8>, FileError> {
        if self.size > LARGEST {
            return Err(FileError::Large(self.size));
        }
        let whole = self.kinds.iter().filter(|(_, listed)| listed.is_whole);
        let objects =
            whole.map(|(kind, listed)| (kind.name(), listed.objects.values().map(AsRef::as_ref).collect()));
        let document = Document { version: VERSION, whose, objects: objects.collect() };
        serde_json::to_vec(&document).map_err(FileError::Write)
    }
}

/// An object without what changes and means nothing: who wrote its fields, its version, and the status but what
/// is read of it.
fn slim(kind: Kind, text: &RawValue) -> Option<(ObjectKey, Box<RawValue>)> {
    let key = key_of(kind, text)?;
    let mut value: Value = serde_json::from_str(text.get()).ok()?;
    let object = value.as_object_mut()?;
    if object_kind(kind).is_fabric() {
        let status = object.remove("status");
        // That of a TunnelFabric tells whether it counts.
        if let Some(accepted) = status.filter(|_| kind == Kind::TunnelFabric).and_then(accepted) {
            object.insert("status".to_owned(), accepted);
        }
    }
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("managedFields");
    metadata.remove("resourceVersion");
    Some((key, to_raw_value(&value).ok()?))
}

/// A status with nothing but the condition that says whether its object is accepted.
fn accepted(mut status: Value) -> Option<Value> {
    let conditions = status.get_mut("conditions")?.as_array_mut()?;
    conditions.retain(|condition| condition["type"] == "Accepted");
    Some(serde_json::json!({ "conditions": std::mem::take(conditions) }))
}

fn is_same(one: &BTreeMap<ObjectKey, Box<RawValue>>, other: &BTreeMap<ObjectKey, Box<RawValue>>) -> bool {
    let texts = |objects: &BTreeMap<ObjectKey, Box<RawValue>>| -> Vec<_> {
        objects.values().map(|text| text.get().to_owned()).collect()
    };
    one.len() == other.len() && texts(one) == texts(other)
}

fn length(objects: &BTreeMap<ObjectKey, Box<RawValue>>) -> usize {
    objects.values().map(|text| text.get().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fabric(accepted: &str, members: u32) -> Box<RawValue> {
        let object = serde_json::json!({
            "metadata": {"name": "f", "resourceVersion": members.to_string()},
            "status": {
                "members": members,
                "conditions": [{"type": "Accepted", "status": accepted}, {"type": "Exhausted", "status": "False"}],
            },
        });
        to_raw_value(&object).unwrap()
    }

    #[test]
    fn of_the_status_of_a_fabric_only_what_counts_is_kept() {
        let mut texts = Texts::default();
        let mut put = |text| {
            texts.set_changed(false);
            texts.take(Text { kind: Kind::TunnelFabric, event: Event::Put(text) });
            texts.changed()
        };
        assert!(put(fabric("True", 1)));
        assert!(!put(fabric("True", 2)), "a member more is no reason to write the file");
        assert!(put(fabric("False", 2)));
        let (_, text) = slim(Kind::TunnelFabric, &fabric("True", 1)).unwrap();
        assert!(text.get().contains(r#"{"conditions":[{"status":"True","type":"Accepted"}]}"#), "{text}");
        let (_, text) = slim(Kind::ExternalHost, &fabric("True", 1)).unwrap();
        assert!(!text.get().contains("status"), "{text}");
    }
}
