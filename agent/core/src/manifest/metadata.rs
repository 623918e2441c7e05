//! `metadata` of the objects of our own group.

use serde_json::Value;

use super::{
    field::{Field, Problems},
    name,
};

/// What all of them have.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) created: Option<i64>,
}

/// Reads what the tree of an object says, and checks its name; `what` the object is, for messages.
pub(super) fn read(what: &str, name: &str, value: &Value, problems: &Problems) -> Metadata {
    if !name::is_dns_subdomain(name) {
        problems.add(
            "metadata.name".to_owned(),
            format!("{}, found {name:?}; rename the {what}", name::DNS_SUBDOMAIN),
        );
    }
    let root = Field::root("metadata", value, problems);
    let Some(fields) = root.open_fields() else { return Metadata::default() };
    Metadata {
        uid: value.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned(),
        generation: value.get("generation").and_then(Value::as_i64).unwrap_or_default(),
        created: fields.get("creationTimestamp").and_then(|field| timestamp(&field)),
    }
}

fn timestamp(field: &Field<'_>) -> Option<i64> {
    let time = field.text()?.parse::<jiff::Timestamp>().ok();
    time.map(jiff::Timestamp::as_second).or_else(|| {
        field.reject("must be an RFC 3339 time such as 2026-01-31T12:00:00Z", "correct or remove it")
    })
}
