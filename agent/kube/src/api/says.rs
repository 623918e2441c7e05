//! OpenAPI rules whose refusal is a sentence.
//!
//! Where CEL cannot look, the API server quotes the pattern that a text does not match, which helps nobody when the
//! pattern is long. Of several ways to pass it quotes the first: so that one is the sentence itself. No text
//! passes by it, since every sentence is longer than the field may be.

use serde_json::{Value, json};

/// A text passes `test`; else the refusal quotes `sentence`, which has to be longer than the field may be.
/// A value that is no text passes.
pub(super) fn or(sentence: &str, test: Value) -> Value {
    json!({ "anyOf": [{ "pattern": format!("^{sentence}$") }, test] })
}
