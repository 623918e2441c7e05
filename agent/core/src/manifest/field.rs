//! Walking a JSON tree with the path in hand, so that every problem names its field.
//!
//! A parser built from these never stops at the first problem: it reports and answers `None`, and its caller
//! goes on with the other fields. `None` therefore always means that a problem has been reported. Paths cost
//! nothing until a problem is written: a field only points to its parent.

use std::{cell::RefCell, fmt, ops::RangeInclusive};

use serde_json::{Map, Value};

use crate::objects::{InvalidSpec, Problem};

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems {
    list: RefCell<Vec<Problem>>,
}

/// A value and the way to it.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
    value: &'a Value,
    problems: &'a Problems,
}

/// A field that is an object.
pub(super) struct Fields<'a> {
    field: &'a Field<'a>,
    map: &'a Map<String, Value>,
}

/// The fields an object may have.
pub(super) struct Known {
    /// Their names.
    pub(super) names: &'static [&'static str],
    /// Names of fields that belong somewhere else, and where.
    pub(super) elsewhere: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Problems {
    /// Adds a problem of the field at `path`.
    pub(super) fn add(&self, path: String, message: String) {
        self.list.borrow_mut().push(Problem { field: path, message });
    }

    /// The value, if there was no problem.
    pub(super) fn settle<T>(self, value: Option<T>) -> Result<T, InvalidSpec> {
        let problems = self.list.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            Some(_) | None => Err(InvalidSpec { problems, ..InvalidSpec::default() }),
        }
    }
}

impl<'a> Field<'a> {
    /// The field where a path begins.
    pub(super) fn root(name: &'a str, value: &'a Value, problems: &'a Problems) -> Self {
        Self { parent: None, step: Step::Key(name), value, problems }
    }

    /// The raw value.
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// Reports that the value breaks a rule.
    pub(super) fn reject<T>(&self, rule: impl fmt::Display, remedy: impl fmt::Display) -> Option<T> {
        self.report(format!("{rule}, found {}; {remedy}", Found(self.value)))
    }

    /// Reports a problem in its own words.
    pub(super) fn report<T>(&self, message: String) -> Option<T> {
        self.problems.add(self.to_string(), message);
        None
    }

    /// Reports a problem of a field below this one that may not exist.
    pub(super) fn report_at<T>(&self, name: &str, message: String) -> Option<T> {
        self.child(name, &Value::Null).report(message)
    }

    /// The value as text.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.reject("must be text", "put it in quotes")
            }
        }
    }

    /// The value as text that passes `check`.
    pub(super) fn text_like(&self, check: fn(&str) -> bool, rule: &str) -> Option<String> {
        let text = self.text()?;
        if check(text) { Some(text.to_owned()) } else { self.reject(rule, "correct it") }
    }

    /// The value as true or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.reject("must be true or false", "write it without quotes"))
    }

    /// The value as an integer of `range`.
    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        let rule = || format!("must be an integer from {} to {}", range.start(), range.end());
        number.or_else(|| self.reject(rule(), "write a number of that range without quotes"))
    }

    /// The value as one of the given words.
    pub(super) fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|(word, _)| self.value.as_str() == Some(word));
        found.map(|(_, choice)| choice.clone()).or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.reject(format_args!("must be one of {}", words.join(", ")), "use one of these words")
        })
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<impl ExactSizeIterator<Item = Field<'_>> + use<'_, 'a>> {
        let Value::Array(items) = self.value else { return self.reject("must be a list", "write it as one") };
        Some(items.iter().enumerate().map(|(index, value)| Field {
            parent: Some(self),
            step: Step::Index(index),
            value,
            problems: self.problems,
        }))
    }

    /// Reports that a list or map holds more than it may; `what` names its entries.
    pub(super) fn at_most(&self, most: usize, count: usize, what: &str) -> Option<()> {
        if count <= most {
            return Some(());
        }
        self.report(format!("must have at most {most} {what}, found {count}; remove some"))
    }

    /// The value as an object; every field that is not known is reported.
    pub(super) fn fields(&'a self, known: &Known) -> Option<Fields<'a>> {
        let fields = self.open_fields()?;
        for (name, value) in fields.map.iter().filter(|(name, _)| !known.names.contains(&name.as_str())) {
            let child = self.child(name, value);
            match known.elsewhere.iter().find(|(other, _)| other == name) {
                Some((_, place)) => child.report::<()>(format!("unknown field here, {place}; remove it")),
                None => {
                    child.report(format!("unknown field; remove it or use one of {}", known.names.join(", ")))
                }
            };
        }
        Some(fields)
    }

    /// The value as an object with fields of any name.
    pub(super) fn open_fields(&'a self) -> Option<Fields<'a>> {
        match self.value {
            Value::Object(map) => Some(Fields { field: self, map }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                self.reject("must be an object", "write its fields below it")
            }
        }
    }

    fn child<'s>(&'s self, name: &'s str, value: &'s Value) -> Field<'s> {
        Field { parent: Some(self), step: Step::Key(name), value, problems: self.problems }
    }
}

impl<'a> Fields<'a> {
    /// The field that is the object.
    pub(super) fn field(&self) -> &'a Field<'a> {
        self.field
    }

    /// A field that is present; null counts as absent, as it does for the API server.
    pub(super) fn get(&self, name: &'a str) -> Option<Field<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(self.field.child(name, value))
    }

    /// All fields.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let field = self.field;
        self.map.iter().map(|(name, value)| (name.as_str(), field.child(name, value)))
    }

    /// What `read` makes of the field; its absence is reported with the remedy.
    pub(super) fn required<T>(
        &self,
        name: &'a str,
        remedy: &str,
        read: impl FnOnce(&Field<'_>) -> Option<T>,
    ) -> Option<T> {
        match self.get(name) {
            Some(field) => read(&field),
            None => self.field.report_at(name, format!("is required; {remedy}")),
        }
    }

    /// What `read` makes of the field; `Some(None)` when it is absent.
    pub(super) fn optional<T>(
        &self,
        name: &'a str,
        read: impl FnOnce(&Field<'_>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.get(name).map_or(Some(None), |field| read(&field).map(Some))
    }

    /// What `read` makes of the field, or the default when it is absent.
    pub(super) fn or<T>(
        &self,
        name: &'a str,
        default: T,
        read: impl FnOnce(&Field<'_>) -> Option<T>,
    ) -> Option<T> {
        self.get(name).map_or(Some(default), |field| read(&field))
    }

    /// Reports unless exactly one of two fields is present.
    pub(super) fn exactly_one(&self, a: &str, b: &str) -> Option<()> {
        let present = |name| self.map.get(name).is_some_and(|value| !value.is_null());
        match (present(a), present(b)) {
            (true, false) | (false, true) => Some(()),
            (true, true) => {
                self.field.report(format!("must have exactly one of {a} and {b}, found both; remove one"))
            }
            (false, false) => {
                self.field.report(format!("must have exactly one of {a} and {b}, found neither; add one"))
            }
        }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let is_plain = |key: &str| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        match self.step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if self.parent.is_none() => f.write_str(key),
            Step::Key(key) if is_plain(key) => write!(f, ".{key}"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// A value in a message: short, on one line.
pub(super) struct Found<'a>(pub(super) &'a Value);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        match self.0 {
            Value::Null => f.write_str("nothing"),
            Value::Bool(value) => value.fmt(f),
            Value::Number(value) => value.fmt(f),
            Value::String(text) => match text.char_indices().nth(LONGEST) {
                Some((end, _)) => write!(f, "{:?} (shortened)", text.get(..end).unwrap_or_default()),
                None => write!(f, "{text:?}"),
            },
            Value::Array(_) => f.write_str("a list"),
            Value::Object(_) => f.write_str("an object"),
        }
    }
}
