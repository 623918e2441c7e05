//! Text → documents, and the first look at one: its kind and name.
//!
//! A JSON document stays text until its kind is known, so that a list of ten thousand objects is never held
//! as a tree. A YAML document becomes a tree, one document at a time.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{Format, ManifestError, strict::Strict};

/// One document or one item of a list.
pub(super) enum Document<'a> {
    /// JSON that has been checked for syntax only.
    Text(&'a RawValue),
    /// A parsed YAML document.
    Tree(Value),
}

/// What tells an object from another.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// `apiVersion`, empty when absent.
    pub(super) api_version: String,
    /// `kind`, empty when absent.
    pub(super) kind: String,
    /// `metadata.namespace`, empty when absent.
    pub(super) namespace: String,
    /// `metadata.name`, empty when absent or not a string.
    pub(super) name: String,
    /// `kind` ends in `List` and there are `items`.
    pub(super) is_list: bool,
}

/// [`Header`] as it is written. Values of any type, so that a wrong one does not hide the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeaderFields {
    api_version: Option<Value>,
    kind: Option<Value>,
    metadata: Option<MetadataFields>,
    items: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct MetadataFields {
    name: Option<Value>,
    namespace: Option<Value>,
}

#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// Calls `visit` with the number (from 1) and content of every document that is not empty.
///
/// # Errors
///
/// At the first document that is not valid; the ones before it have been visited.
pub(super) fn for_each<'a>(
    text: &'a str,
    format: Format,
    mut visit: impl FnMut(usize, Document<'a>),
) -> Result<(), ManifestError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Json => {
            let documents = serde_json::Deserializer::from_str(text).into_iter::<&'a RawValue>();
            for (index, raw) in documents.enumerate() {
                let raw = raw.map_err(|source| ManifestError::Json { document: index + 1, source })?;
                if raw.get() != "null" {
                    visit(index + 1, Document::Text(raw));
                }
            }
        }
        Format::Yaml => {
            for (index, document) in yaml_serde::Deserializer::from_str(text).enumerate() {
                let tree = Strict::deserialize(document)
                    .map_err(|source| ManifestError::Yaml { document: index + 1, source })?
                    .0;
                if !tree.is_null() {
                    visit(index + 1, Document::Tree(tree));
                }
            }
        }
    }
    Ok(())
}

impl<'a> Document<'a> {
    /// Kind and name.
    pub(super) fn header(&self) -> Result<Header, String> {
        let is_object = match self {
            Self::Text(raw) => raw.get().starts_with('{'),
            Self::Tree(tree) => tree.is_object(),
        };
        if !is_object {
            return Err("is not an object; write fields such as apiVersion, kind and metadata".to_owned());
        }
        let fields = match self {
            Self::Text(raw) => serde_json::from_str(raw.get()).map_err(|e| e.to_string())?,
            Self::Tree(tree) => HeaderFields::deserialize(tree).map_err(|e| e.to_string())?,
        };
        let kind = text(fields.kind.as_ref());
        Ok(Header {
            is_list: kind == "List" || kind.ends_with("List") && fields.items.is_some(),
            api_version: text(fields.api_version.as_ref()),
            namespace: text(fields.metadata.as_ref().and_then(|m| m.namespace.as_ref())),
            name: text(fields.metadata.as_ref().and_then(|m| m.name.as_ref())),
            kind,
        })
    }

    /// The items of a list.
    pub(super) fn into_items(self) -> Result<Vec<Self>, String> {
        match self {
            Self::Text(raw) => {
                let list: Items<'a> = serde_json::from_str(raw.get()).map_err(|e| format!("items: {e}"))?;
                Ok(list.items.unwrap_or_default().into_iter().map(Self::Text).collect())
            }
            Self::Tree(mut tree) => match tree.get_mut("items").map(Value::take) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(items)) => Ok(items.into_iter().map(Self::Tree).collect()),
                Some(_) => Err("items: must be a list".to_owned()),
            },
        }
    }

    /// The document as `T`; the error names the field.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Text(raw) => serde_json::from_str(raw.get()).map_err(|error| {
                // Only the slow way knows the field.
                let tree = serde_json::from_str::<Value>(raw.get());
                tree.ok().and_then(|tree| decode_tree::<T>(&tree).err()).unwrap_or_else(|| error.to_string())
            }),
            Self::Tree(tree) => decode_tree(tree),
        }
    }

    /// The document as a tree without duplicate keys.
    pub(super) fn into_tree(self) -> Result<Value, String> {
        match self {
            Self::Text(raw) => {
                serde_json::from_str::<Strict>(raw.get()).map(|s| s.0).map_err(|e| e.to_string())
            }
            Self::Tree(tree) => Ok(tree),
        }
    }
}

fn decode_tree<T: DeserializeOwned>(tree: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(tree)
        .map_err(|e| format!("{}: {}; correct the field", e.path(), e.inner()))
}

/// A string, or nothing.
fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}
