//! What the kernel has of the filter, as `nft` tells it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Error, nft,
    text::{GENERATION, INPUT, TABLE, Wanted},
};

/// The table without the elements of its sets.
#[derive(Debug, Default)]
pub(super) struct Present {
    generation: Option<String>,
    /// Rules by chain.
    rules: BTreeMap<String, usize>,
}

impl Present {
    /// Whether it is what was wanted: its mark, and every chain with all its rules.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        let rules =
            wanted.chains().into_iter().map(|(chain, rules)| (chain.to_owned(), rules.len())).collect();
        self.generation.as_deref() == Some(&wanted.generation()) && self.rules == rules
    }
}

/// Looks at the table; `None` when there is none.
pub(super) fn look() -> Result<Option<Present>, Error> {
    let printed = match nft::run(&["-j", "-t", "list", "table", "inet", TABLE], "") {
        Err(Error::Refused(complaint)) if complaint.contains("No such file") => return Ok(None),
        other => other?,
    };
    let mut present = Present::default();
    for rule in objects(&printed, "rule")? {
        let Some(chain) = rule["chain"].as_str() else { continue };
        *present.rules.entry(chain.to_owned()).or_default() += 1;
        let comment = rule["comment"].as_str().and_then(|comment| comment.strip_prefix(GENERATION));
        if let Some(generation) = comment.filter(|_| chain == INPUT) {
            present.generation = Some(generation.to_owned());
        }
    }
    Ok(Some(present))
}

/// The packets of every counter.
pub(super) fn counters() -> Result<BTreeMap<String, u64>, Error> {
    let printed = match nft::run(&["-j", "list", "counters", "table", "inet", TABLE], "") {
        Err(Error::Refused(complaint)) if complaint.contains("No such file") => return Ok(BTreeMap::new()),
        other => other?,
    };
    let counters = objects(&printed, "counter")?;
    Ok(counters
        .iter()
        .filter_map(|counter| Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?)))
        .collect())
}

/// The objects of a kind.
fn objects(printed: &str, kind: &str) -> Result<Vec<Value>, Error> {
    let mut document: Value = serde_json::from_str(printed).map_err(Error::Unreadable)?;
    let objects = document["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok(objects.into_iter().filter_map(|mut object| object.get_mut(kind).map(Value::take)).collect())
}
