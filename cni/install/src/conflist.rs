//! A network configuration as text: what is in it, and the same text with our plugin in it or without.
//!
//! Only the bytes of the change differ: keys that nobody knows, their order, numbers and blanks stay as whoever wrote the file
//! wants them. Pure.

use std::ops::{Range, RangeInclusive};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// `type` of our plugin: the name of its binary (CNI specification, "Plugin configuration objects").
pub const PLUGIN: &str = "balancing-cni";
/// Versions of the CNI specification that our plugin speaks: those with plugin lists. It refuses every call in another one.
pub const SPOKEN: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Plugins whose installers make them the last one, too. Ours may stand before them: two that both insist never come to rest.
const ALSO_LAST: [&str; 2] = ["istio-cni", "linkerd-cni"];

/// Why a text is no network configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or of another shape.
    #[error("it is no network configuration: {0}")]
    Shape(String),
    /// A list without plugins.
    #[error("its list of plugins is empty")]
    NoPlugins,
    /// A plugin without `type`.
    #[error("plugin {0} of its list has no type")]
    NoType(usize),
}

/// A network configuration list, a file `*.conflist`.
#[derive(Clone, Debug)]
pub struct Conflist<'t> {
    text: &'t str,
    /// `name`; empty where there is none.
    pub name: String,
    /// It has a `name`, be it empty; libcni loads no list without.
    pub has_name: bool,
    /// `cniVersion`; empty where there is none.
    pub version: String,
    /// `loadOnlyInlinedPlugins`: plugins of a directory of the network's name do not count (CNI specification 1.1.0).
    pub only_inlined: bool,
    plugins: Vec<Plugin<'t>>,
}

/// An entry of the list.
#[derive(Clone, Debug)]
struct Plugin<'t> {
    text: &'t str,
    kind: String,
}

/// Where our plugin belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// After all others, but for those that want to be the last one themselves.
    #[default]
    Last,
    /// Before the first of this type; last where there is none.
    Before(String),
}

#[derive(Deserialize)]
struct List<'t> {
    name: Option<String>,
    #[serde(default, rename = "cniVersion")]
    version: String,
    #[serde(default, rename = "loadOnlyInlinedPlugins")]
    only_inlined: bool,
    #[serde(borrow)]
    plugins: Vec<&'t RawValue>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, rename = "type")]
    kind: String,
}

impl<'t> Conflist<'t> {
    /// Reads a list.
    ///
    /// # Errors
    /// When libcni would not take it: no JSON, no plugin, a plugin without type.
    pub fn parse(text: &'t str) -> Result<Self, Malformed> {
        let list: List<'t> = serde_json::from_str(text).map_err(shape)?;
        if list.plugins.is_empty() {
            return Err(Malformed::NoPlugins);
        }
        let plugins = list.plugins.iter().enumerate().map(|(index, raw)| Plugin::parse(index, raw.get()));
        Ok(Self {
            text,
            has_name: list.name.is_some(),
            name: list.name.unwrap_or_default(),
            version: list.version,
            only_inlined: list.only_inlined,
            plugins: plugins.collect::<Result<_, _>>()?,
        })
    }

    /// Whether our plugin could be called with this configuration. Only `cniVersion` counts: older runtimes do not read `cniVersions`.
    #[must_use]
    pub fn is_spoken(&self) -> bool {
        SPOKEN.contains(&self.version.as_str())
    }

    /// Whether runtimes and plugins take its name (CNI specification, "Network configuration format").
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    }

    /// Our entry.
    #[must_use]
    pub fn ours(&self) -> Option<&'t str> {
        self.plugins.iter().find(|plugin| plugin.kind == PLUGIN).map(|plugin| plugin.text)
    }

    /// Whether ours would be the first at this place, where no plugin before it has made a network.
    #[must_use]
    pub fn would_lead(&self, place: &Place) -> bool {
        self.has_others() && places(&self.others(), place).is_none()
    }

    /// Types of the plugins, in their order.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str())
    }

    /// How often our plugin is in the list.
    #[must_use]
    pub fn count(&self) -> usize {
        self.types().filter(|kind| *kind == PLUGIN).count()
    }

    /// Whether there is a plugin besides ours.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.types().any(|kind| kind != PLUGIN)
    }

    /// The text with this entry of ours at its place and no other of ours; `None` = it is so already.
    ///
    /// Nothing is put into a list without other plugins, nor before all of them: ours makes no network.
    #[must_use]
    pub fn with(&self, entry: &str, place: &Place) -> Option<String> {
        if !self.has_others() || self.has(entry, place) {
            return None;
        }
        let at = *places(&self.others(), place)?.end();
        let bare = self.without_ours();
        // The same offsets hold in the text without ours up to the first of ours, so it is parsed anew.
        let bare = bare.as_deref().unwrap_or(self.text);
        let list = Conflist::parse(bare).ok()?;
        Some(list.insert(entry, at))
    }

    /// The text without our plugin; `None` = it is not in it, or nothing else is.
    #[must_use]
    pub fn without(&self) -> Option<String> {
        if self.has_others() { self.without_ours() } else { None }
    }

    /// Whether exactly this entry is at its place. What an entry says counts, not how it is written.
    fn has(&self, entry: &str, place: &Place) -> bool {
        let Some(places) = places(&self.others(), place) else { return false };
        let found = self.plugins.iter().position(|plugin| plugin.kind == PLUGIN);
        let Some(index) = found.filter(|_| self.count() == 1) else { return false };
        let value = |text: &str| serde_json::from_str::<Value>(text).ok();
        // Before ours there are only others, so its index is the number of those.
        places.contains(&index) && value(self.plugins[index].text) == value(entry)
    }

    fn others(&self) -> Vec<&Plugin<'t>> {
        self.plugins.iter().filter(|plugin| plugin.kind != PLUGIN).collect()
    }

    fn without_ours(&self) -> Option<String> {
        let mut kept = String::new();
        let mut from = 0;
        for (index, plugin) in self.plugins.iter().enumerate() {
            if plugin.kind != PLUGIN {
                continue;
            }
            let cut = self.cut(index);
            // Entries that follow each other share a comma.
            kept.push_str(self.text.get(from..cut.start.max(from))?);
            from = cut.end;
        }
        if from == 0 {
            return None;
        }
        kept.push_str(self.text.get(from..)?);
        Some(kept)
    }

    /// The bytes of an entry with one comma: that after it where one of the others follows, as it was put there, else that before
    /// it.
    fn cut(&self, index: usize) -> Range<usize> {
        let span = self.span(index);
        let is_followed = self.plugins[index..].iter().any(|plugin| plugin.kind != PLUGIN);
        match index.checked_sub(1) {
            _ if is_followed => span.start..self.span(index + 1).start,
            Some(before) => self.span(before).end..span.end,
            None => span,
        }
    }

    /// Puts an entry before that of an index, written as its neighbour is.
    fn insert(&self, entry: &str, index: usize) -> String {
        let mut text = self.text.to_owned();
        if index < self.plugins.len() {
            let at = self.span(index).start;
            text.insert_str(at, &format!("{entry},{}", self.blanks_before(index)));
        } else {
            let last = self.plugins.len() - 1;
            text.insert_str(self.span(last).end, &format!(",{}{entry}", self.blanks_before(last)));
        }
        text
    }

    /// Blanks between an entry and what is before it.
    fn blanks_before(&self, index: usize) -> &str {
        let before = self.text.get(..self.span(index).start).unwrap_or_default();
        before.get(before.trim_end().len()..).unwrap_or_default()
    }

    /// Where an entry is in the text. Entries are parts of it, so their addresses tell.
    fn span(&self, index: usize) -> Range<usize> {
        let entry = self.plugins[index].text;
        let start = entry.as_ptr().addr() - self.text.as_ptr().addr();
        start..start + entry.len()
    }
}

impl<'t> Plugin<'t> {
    fn parse(index: usize, text: &'t str) -> Result<Self, Malformed> {
        let entry: Entry = serde_json::from_str(text).map_err(shape)?;
        if entry.kind.is_empty() {
            return Err(Malformed::NoType(index));
        }
        Ok(Self { text, kind: entry.kind })
    }
}

/// Indexes among the others at which ours may be; it is put at the end of them. `None` = only before all of them.
fn places(others: &[&Plugin<'_>], place: &Place) -> Option<RangeInclusive<usize>> {
    let end = others.len();
    let first = match place {
        Place::Last => others.iter().rposition(|plugin| !ALSO_LAST.contains(&plugin.kind.as_str())),
        Place::Before(kind) => {
            let at = others.iter().position(|plugin| plugin.kind == *kind).unwrap_or(end);
            return (at > 0).then_some(at..=at);
        }
    };
    Some(first.map_or(1, |last| last + 1)..=end)
}

/// A configuration of one plugin, a file `*.conf` or `*.json`, as a list of the same name and version. Its own keys stay as they are.
///
/// # Errors
/// When libcni would not take it.
pub fn list_of(text: &str) -> Result<String, Malformed> {
    #[derive(Deserialize)]
    struct Single {
        #[serde(default)]
        name: String,
        #[serde(default, rename = "cniVersion")]
        version: String,
    }
    let single: Single = serde_json::from_str(text).map_err(shape)?;
    Plugin::parse(0, text)?;
    let mut list = String::from("{\n");
    for (key, value) in [("cniVersion", single.version), ("name", single.name)] {
        if !value.is_empty() {
            let value = Value::from(value);
            list.push_str(&format!("  \"{key}\": {value},\n"));
        }
    }
    list.push_str(&format!("  \"plugins\": [\n{}\n  ]\n}}\n", text.trim()));
    Ok(list)
}

fn shape(error: serde_json::Error) -> Malformed {
    Malformed::Shape(error.to_string())
}

#[cfg(test)]
mod tests;
