//! IP literals.
//!
//! A text or an object is nothing that CEL can see, so the entries of `addresses` have the same rules as OpenAPI
//! patterns. What that cannot say is left to the agent: the same address twice.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::says;
use balancing_core::bounds::MAX_ADDRESSES;

/// Longest IP literal: an IPv6 address that ends in an IPv4 address.
pub(super) const IP_LENGTH: usize = 45;

const SYNTAX: &str = "must be an IP address such as 192.0.2.1 or 2001:db8::1, without prefix length or zone";
const LEADING_ZERO: &str = "must be an IP address without leading zeros in its decimal numbers";
const UNSPECIFIED: &str = "must not be the unspecified address, which is 0.0.0.0 or ::";
const MULTICAST: &str = "must not be a multicast address, which is one of 224.0.0.0/4 or ff00::/8";

/// A number of an IPv4 address with a leading zero, which some readers take for octal.
const LEADING_ZERO_REGEX: &str = r"(^|:)0[0-9]+[.]|[.]0[0-9]";
/// Up to the IPv4 address in an IPv4-mapped one, with and without `::` on the way; and without it, with `::`
/// to come. What matches is a valid address, so the zeros need not be counted.
const MAPPED_REGEX: &str = "^(0{0,4}:){2,6}[Ff]{4}:";
const MAPPED_IN_FULL_REGEX: &str = "^(0{1,4}:){5}[Ff]{4}:";

/// An address of an `addressEndpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Address {
    /// With the weight of all that name none: 1.
    Plain(String),
    /// With its own weight.
    Weighted(WeightedAddress),
}

/// An address with its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedAddress {
    /// IPv4 or IPv6 address.
    pub ip: String,
    /// Share of new connections, 0 to 100; 0 drains the address. 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
}

/// The text is an IP address.
pub(super) fn ip_syntax() -> Rule {
    // isIP() refuses IPv4-mapped addresses, so what makes them mapped is replaced first.
    Rule::new("isIP(self.lowerAscii().replace('ffff', 'fffe'))").message(SYNTAX)
}

/// The address is not the unspecified one.
pub(super) fn not_unspecified() -> Rule {
    Rule::new(format!("!self.matches('{}')", unspecified())).message(UNSPECIFIED)
}

/// The address is not a multicast one.
pub(super) fn not_multicast() -> Rule {
    Rule::new(format!("!self.matches('{}')", multicast())).message(MULTICAST)
}

/// `addresses`.
pub(super) fn list(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ADDRESSES,
        "items": entry(),
    })
}

/// A text or an object. Keywords for one of them do not concern the other, nor a number or a list: those are
/// what `not` refuses.
fn entry() -> Value {
    let mut entry = text();
    let fields = json!({
        "x-kubernetes-preserve-unknown-fields": true,
        "not": { "maxLength": 0, "maxProperties": 0 },
        "properties": {
            "ip": ip_field(),
            "weight": {
                "description": "Share of new connections, 0 to 100; 0 drains the address. 1 when absent.",
                "type": "integer",
                "format": "int32",
                "minimum": 0,
                "maximum": 100,
            },
        },
        "required": ["ip"],
        // No field but ip and weight.
        "anyOf": [{ "maxProperties": 1 }, { "required": ["weight"], "maxProperties": 2 }],
    });
    merge(&mut entry, fields);
    entry
}

fn ip_field() -> Value {
    let mut field = text();
    merge(&mut field, json!({ "type": "string", "description": "IPv4 or IPv6 address." }));
    field
}

/// The rules of a text.
fn text() -> Value {
    let formats = json!({ "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] });
    json!({
        "maxLength": IP_LENGTH,
        "allOf": [
            // Twice negated: the refusal would rather quote a format than the sentence.
            says::or(SYNTAX, json!({ "not": { "not": formats } })),
            says::or(LEADING_ZERO, never(LEADING_ZERO_REGEX)),
            says::or(UNSPECIFIED, never(&unspecified())),
            says::or(MULTICAST, never(&multicast())),
        ],
    })
}

fn never(pattern: &str) -> Value {
    json!({ "not": { "pattern": pattern } })
}

fn unspecified() -> String {
    format!(
        "^[0:.]+$|{MAPPED_REGEX}(0{{1,4}}:0{{1,4}}|0[.]0[.]0[.]0)$|{MAPPED_IN_FULL_REGEX}(:|0{{1,4}}::|:0{{1,4}})$"
    )
}

fn multicast() -> String {
    let first = "(22[4-9]|23[0-9])[.]";
    format!(
        "^{first}|^[Ff]{{2}}[0-9A-Fa-f]{{2}}:|{MAPPED_REGEX}({first}|[Ee][0-9A-Fa-f]{{3}}:[0-9A-Fa-f]{{1,4}}$)\
         |{MAPPED_IN_FULL_REGEX}[Ee][0-9A-Fa-f]{{3}}::$"
    )
}

fn merge(into: &mut Value, fields: Value) {
    if let (Value::Object(into), Value::Object(fields)) = (into, fields) {
        into.extend(fields);
    }
}
