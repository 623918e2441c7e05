//! Trees as YAML that every reader understands alike.
//!
//! kubectl reads YAML 1.1, where `on`, `n` and `1_000` are no text; the agent reads YAML 1.2, where they are. So only
//! text that is text to both is written plainly.

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 takes for something else, in lower case.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// One document, with its end of line.
pub(super) fn document(tree: &Value) -> String {
    let mut out = String::new();
    block(tree, 0, &mut out);
    out
}

/// Writes a value on lines of its own; the first line is indented already.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                pad(index, indent, out);
                text(key, out);
                out.push(':');
                below(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                pad(index, indent, out);
                out.push_str("- ");
                block(item, indent + 2, out);
            }
        }
        Value::String(string) => {
            text(string, out);
            out.push('\n');
        }
        // The empty ones and all scalars are written as in JSON.
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// Writes the value of a key: behind it, or on the next lines.
fn below(value: &Value, indent: usize, out: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if is_block {
        out.push('\n');
        pad(1, indent, out);
    } else {
        out.push(' ');
    }
    block(value, indent, out);
}

fn pad(index: usize, indent: usize, out: &mut String) {
    if index > 0 {
        out.extend(std::iter::repeat_n(' ', indent));
    }
}

fn text(string: &str, out: &mut String) {
    let is_word = WORDS.contains(&string.to_ascii_lowercase().as_str());
    // What begins with a letter is no number in either version.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if string.starts_with(|c: char| c.is_ascii_alphabetic()) && string.chars().all(plain) && !is_word {
        out.push_str(string);
        return;
    }
    out.push('"');
    for c in string.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            // Also what looks like another character, or like none.
            _ => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
}
