//! Lists for people, none longer than anybody reads.

/// Items of a list that are shown.
const SHOWN: usize = 8;

/// Problems that are kept; the others are only counted.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    shown: Vec<String>,
    more: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: impl Into<String>) {
        if self.shown.len() < SHOWN {
            self.shown.push(problem.into());
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.shown.push(format!("and {} more problems", self.more));
        }
        self.shown
    }
}

/// A list in words.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.len() {
        0 => "none".to_owned(),
        1..=SHOWN => items.join(", "),
        more => format!("{} and {} more", items[..SHOWN].join(", "), more - SHOWN),
    }
}
