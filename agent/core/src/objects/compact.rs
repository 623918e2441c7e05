//! Small sets and maps as sorted slices. A cluster has a hundred thousand pods, each with one label or two and an address
//! or two, and a tree takes hundreds of bytes for the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Deref,
};

/// Addresses, in order, each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Addresses(Box<[IpAddr]>);

/// Labels, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Labels(Box<[(String, String)]>);

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Addresses {
    type Item = &'a IpAddr;
    type IntoIter = std::slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().collect::<BTreeSet<_>>().into()
    }
}

impl From<BTreeSet<IpAddr>> for Addresses {
    fn from(addresses: BTreeSet<IpAddr>) -> Self {
        Self(addresses.into_iter().collect())
    }
}

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(name, _)| name.as_str().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        Self(labels.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_whatever_the_order() {
        let labels = |pairs: [(&str, &str); 3]| -> Labels {
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let one = labels([("b", "2"), ("a", "1"), ("c", "3")]);
        let other = labels([("c", "3"), ("b", "2"), ("a", "1")]);
        assert_eq!(one, other);
        assert_eq!(
            ["a", "b", "c", "d", ""].map(|key| one.get(key)),
            [Some("1"), Some("2"), Some("3"), None, None]
        );
        assert_eq!(one.iter().map(|(key, _)| key).collect::<String>(), "abc");
    }

    #[test]
    fn addresses_are_sorted_and_there_once() {
        let ips = ["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let found: Addresses = ips.into_iter().collect();
        assert_eq!(*found, [ips[2], ips[0], ips[1]]);
    }
}
