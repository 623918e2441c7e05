//! Objects of any kind as trees, for callers that rewrite manifests instead of resolving them.
//!
//! It shares documents, lists and headers with the reader of objects, and reads nothing else of an object.

use serde_json::{Value, json};

use super::{
    Format, MAX_LIST_DEPTH, ManifestError, ManifestProblem, Place,
    document::{self, Document, Header},
};

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct RawObject {
    /// The object for messages, such as `Pod default/web-0`, or its place in the text.
    pub title: String,
    /// `apiVersion`; empty when absent.
    pub api_version: String,
    /// `kind`, never empty.
    pub kind: String,
    /// `metadata.namespace`; empty when absent.
    pub namespace: String,
    /// `metadata.name`; empty when absent or not a string.
    pub name: String,
    /// The whole object, always with `apiVersion` and `kind` where they are known: items of a typed list may leave
    /// them out.
    pub tree: Value,
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw {
    /// The objects in the order of the text.
    pub objects: Vec<RawObject>,
    /// What is no object.
    pub problems: Vec<ManifestProblem>,
}

/// Reads all objects of a text, those in lists too.
///
/// # Errors
///
/// When the text is not valid in its format; nothing of it is returned then.
pub fn read(text: &str, format: Format) -> Result<Raw, ManifestError> {
    let mut raw = Raw::default();
    document::for_each(text, format, |number, document| {
        let place = Place { document: number, item: None };
        if let Err(message) = raw.add(document, &place, None, 0) {
            raw.problems.push(ManifestProblem { object: place.to_string(), message });
        }
    })?;
    Ok(raw)
}

impl Raw {
    /// Adds an object, or the items of a list.
    fn add(
        &mut self,
        document: Document<'_>,
        place: &Place,
        inherited: Option<&Header>,
        depth: usize,
    ) -> Result<(), String> {
        let mut header = document.header()?;
        if let Some(list) = inherited {
            header.inherit(list);
        }
        if header.kind.is_empty() {
            return Err("kind is missing; every object needs apiVersion and kind".to_owned());
        }
        if !header.is_list {
            let object = RawObject::new(document, header, place)?;
            self.objects.push(object);
            return Ok(());
        }
        if depth == MAX_LIST_DEPTH {
            return Err(format!("lists are nested more than {MAX_LIST_DEPTH} deep; move the items up"));
        }
        for (index, item) in document.into_items()?.into_iter().enumerate() {
            let place = Place { item: Some(index), ..*place };
            if let Err(message) = self.add(item, &place, Some(&header), depth + 1) {
                self.problems.push(ManifestProblem { object: place.to_string(), message });
            }
        }
        Ok(())
    }
}

impl RawObject {
    fn new(document: Document<'_>, header: Header, place: &Place) -> Result<Self, String> {
        let mut tree = document.into_tree()?;
        if let Value::Object(map) = &mut tree {
            for (field, value) in [("apiVersion", &header.api_version), ("kind", &header.kind)] {
                if !value.is_empty() {
                    map.insert(field.to_owned(), json!(value));
                }
            }
        }
        Ok(Self {
            title: header.title(place),
            api_version: header.api_version,
            kind: header.kind,
            namespace: header.namespace,
            name: header.name,
            tree,
        })
    }
}
