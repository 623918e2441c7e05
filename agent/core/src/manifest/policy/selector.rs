//! Label selectors (Kubernetes, `LabelSelector` of `meta/v1`).

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::{MAX_EXPRESSIONS, MAX_LABELS, MAX_VALUES};
use crate::{
    manifest::{
        field::{Field, Fields, Known},
        name,
    },
    objects::{LabelExpression, LabelOperator, LabelSelector},
};

const SELECTOR: Known = Known { names: &["matchLabels", "matchExpressions"], elsewhere: &[] };
const EXPRESSION: Known = Known { names: &["key", "operator", "values"], elsewhere: &[] };

#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Reads a selector; an empty one matches everything.
pub(in crate::manifest) fn read(field: &Field<'_>) -> Option<LabelSelector> {
    let fields = field.fields(&SELECTOR)?;
    let labels = fields.or("matchLabels", BTreeMap::new(), match_labels);
    let expressions = fields.or("matchExpressions", Vec::new(), |field| {
        let items = field.items()?;
        field.at_most(MAX_EXPRESSIONS, items.len(), "expressions")?;
        let expressions: Vec<_> = items.map(|item| expression(&item)).collect();
        expressions.into_iter().collect()
    });
    Some(LabelSelector { labels: labels?, expressions: expressions? })
}

fn match_labels(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    let fields = field.open_fields()?;
    field.at_most(MAX_LABELS, fields.iter().count(), "labels")?;
    let labels: Vec<_> = fields
        .iter()
        .map(|(key, field)| {
            let value = label_value(&field);
            if !name::is_label_key(key) {
                return field.report(format!("{}, found {key:?}; correct the key", name::LABEL_KEY));
            }
            Some((key.to_owned(), value?))
        })
        .collect();
    labels.into_iter().collect()
}

fn expression(item: &Field<'_>) -> Option<LabelExpression> {
    let fields = item.fields(&EXPRESSION)?;
    let key = fields
        .required("key", "add the label's key", |field| field.text_like(name::is_label_key, name::LABEL_KEY));
    let operator = fields.required("operator", "add In, NotIn, Exists or DoesNotExist", |field| {
        field.choice(&[
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ])
    });
    let values = fields.or("values", BTreeSet::new(), |field| {
        let items = field.items()?;
        field.at_most(MAX_VALUES, items.len(), "values")?;
        let values: Vec<_> = items.map(|item| label_value(&item)).collect();
        values.into_iter().collect()
    });
    let operator = with_values(&fields, operator?, values?)?;
    Some(LabelExpression { key: key?, operator })
}

fn with_values(fields: &Fields<'_>, operator: Operator, values: BTreeSet<String>) -> Option<LabelOperator> {
    match (operator, values.is_empty()) {
        (Operator::In, false) => Some(LabelOperator::In(values)),
        (Operator::NotIn, false) => Some(LabelOperator::NotIn(values)),
        (Operator::Exists, true) => Some(LabelOperator::Exists),
        (Operator::DoesNotExist, true) => Some(LabelOperator::DoesNotExist),
        (Operator::In | Operator::NotIn, true) => {
            let message = "must have at least one value with operator In or NotIn, found none; add one";
            fields.field().report_at("values", message.to_owned())
        }
        (Operator::Exists | Operator::DoesNotExist, false) => {
            let message = "must be empty with operator Exists or DoesNotExist; remove the values";
            fields.field().report_at("values", message.to_owned())
        }
    }
}

fn label_value(field: &Field<'_>) -> Option<String> {
    field.text_like(name::is_label_value, name::LABEL_VALUE)
}
