//! Syntax of names, as Kubernetes defines it ("Object Names and IDs", "Labels and Selectors").

/// Says how a DNS label looks, for messages.
pub const DNS_LABEL: &str =
    "must be a DNS label: 1 to 63 lower-case letters, digits or '-', first and last a letter or digit";

/// Says how the name of an object looks, for messages.
pub const DNS_SUBDOMAIN: &str = "must be a DNS subdomain: up to 253 lower-case letters, digits, '-' or '.', each part beginning and ending with a letter or digit";

/// Says how a port name looks, for messages.
pub const PORT_NAME: &str = "must be a lower-case IANA service name: 1 to 15 letters, digits or '-', \
     at least one letter, no '-' at the ends and no two in a row";

/// Says how the name of an interface looks, for messages.
pub const INTERFACE: &str = "must be the name of an interface, 1 to 15 characters without blank, slash, colon or '*', where a '*' at \
     the end stands for the rest of the name";

/// Says how a label key looks, for messages.
pub const LABEL_KEY: &str = "must be a label key: an optional DNS subdomain and '/', then 1 to 63 letters, digits, \
     '-', '_' or '.', first and last a letter or digit";

/// Says how a label value looks, for messages.
pub const LABEL_VALUE: &str =
    "must be a label value: up to 63 letters, digits, '-', '_' or '.', first and last a letter or digit";

/// RFC 1123 label.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// RFC 1123 subdomain.
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

/// RFC 6335, section 5.1, in lower case as Kubernetes wants it.
#[must_use]
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_part(text)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
}

/// Name of a network interface as the kernel takes it (`dev_valid_name`), or the start of one and `*`.
#[must_use]
pub fn is_interface(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'*');
    (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && name.bytes().all(is_plain)
}

/// Key of a label.
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// Value of a label.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

fn is_dns_part(text: &str) -> bool {
    bounded_by_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_qualified(text: &str) -> bool {
    text.len() <= 63
        && bounded_by_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// First and last byte are letters or digits; false for empty text.
fn bounded_by_alphanumeric(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.iter().all(|end| end.is_some_and(|b| b.is_ascii_alphanumeric()))
}
