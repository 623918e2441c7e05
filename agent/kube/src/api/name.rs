//! CEL rules for names. The agent's own are in `manifest::name`, which also has the words.

use kube::core::Rule;

use balancing_core::manifest::name::{DNS_LABEL, DNS_SUBDOMAIN, LABEL_KEY, LABEL_VALUE, PORT_NAME};

/// Longest DNS label.
pub(super) const DNS_LABEL_LENGTH: u32 = 63;
/// Longest name of an object.
pub(super) const DNS_SUBDOMAIN_LENGTH: u32 = 253;
/// Longest port name.
pub(super) const PORT_NAME_LENGTH: u32 = 15;
/// Longest label value, and the longest name in a label key.
pub(super) const LABEL_VALUE_LENGTH: u32 = 63;
/// Longest label key: prefix, slash and name.
pub(super) const LABEL_KEY_LENGTH: u32 = 253 + 1 + LABEL_VALUE_LENGTH;

/// Digits and letters in groups that single hyphens separate; one group has a letter.
pub(super) const PORT_NAME_REGEX: &str = "([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*";
const DNS_PART_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]";

/// The text is a DNS label.
pub(super) fn dns_label() -> Rule {
    Rule::new(format!("self.matches('^{DNS_PART_REGEX}$')")).message(DNS_LABEL)
}

/// The text is a DNS subdomain.
pub(super) fn dns_subdomain() -> Rule {
    Rule::new(format!("self.matches('^{DNS_PART_REGEX}(\\\\.{DNS_PART_REGEX})*$')")).message(DNS_SUBDOMAIN)
}

/// The text is a port name; the empty one counts as none, since clients written in Go send it so.
pub(super) fn port_name() -> Rule {
    Rule::new(format!("self == '' || self.matches('^{PORT_NAME_REGEX}$')")).message(PORT_NAME)
}

/// The text is a label key.
pub(super) fn label_key() -> Rule {
    Rule::new(is_label_key("self")).message(LABEL_KEY)
}

/// Every key of the map is a label key.
pub(super) fn label_keys() -> Rule {
    Rule::new(format!("self.all(key, {})", is_label_key("key")))
        .message(format!("every key {LABEL_KEY}").as_str())
}

/// The text is a label value.
pub(super) fn label_value() -> Rule {
    Rule::new(format!("self == '' || self.matches('^{LABEL_REGEX}$')")).message(LABEL_VALUE)
}

fn is_label_key(key: &str) -> String {
    format!(
        "{key}.matches('^({DNS_PART_REGEX}(\\\\.{DNS_PART_REGEX})*/)?{LABEL_REGEX}$') && {key}.indexOf('/') <= 253"
    )
}
