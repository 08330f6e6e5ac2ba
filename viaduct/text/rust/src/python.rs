//! Values as Python writes them: str(), repr() and json.dumps().

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

fn bad(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// repr() of a float: the shortest digits that read back equal, with an exponent below 1e-4 and from 1e16.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

pub fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// str(): what `{{ value }}` prints and `~` joins.
pub fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => {
            let mut out = String::new();
            write(value, &mut out, false, 0)?;
            Ok(out)
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            // Behind another character, escape_debug leaves what can be printed, marks of all kinds included.
            c if c as u32 > 0x9F && c != '\u{AD}' && !c.is_whitespace() && format!("a{c}").escape_debug().count() == 2 => {
                out.push(c)
            }
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
}

fn write(value: &Value, out: &mut String, inside: bool, depth: usize) -> Result<(), Error> {
    if depth > 200 {
        return Err(bad("a value is nested too deep to be printed".into()));
    }
    if out.len() > crate::filters::LONGEST {
        return Err(bad("a value is too long to be printed".into()));
    }
    match value.kind() {
        ValueKind::Undefined if inside => out.push_str("Undefined"),
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if is_float(value) => out.push_str(&float_repr(f64::try_from(value.clone())?)),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String if inside => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(&item, out, true, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(&key, out, true, depth + 1)?;
                out.push_str(": ");
                write(&value.get_item(&key)?, out, true, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// The arguments of json.dumps.
pub struct JsonStyle {
    pub ensure_ascii: bool,
    /// What one level is indented by.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// json.dumps().
pub fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(value, style, &mut out, 0)?;
    Ok(out)
}

fn json_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if ensure_ascii && c as u32 > 0x7E => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        float_repr(value)
    }
}

/// A key of a map as json.dumps makes a string of it.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_string()),
        ValueKind::Number if is_float(key) => Ok(json_float(f64::try_from(key.clone())?)),
        ValueKind::Number => Ok(key.to_string()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_string()),
        ValueKind::None => Ok("null".into()),
        kind => Err(bad(format!("tojson: keys must be str, int, float, bool or None, not {kind}"))),
    }
}

fn write_json(value: &Value, style: &JsonStyle, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > 200 {
        return Err(bad("tojson: nested too deep".into()));
    }
    if out.len() > crate::filters::LONGEST {
        return Err(bad("tojson: the result is too long".into()));
    }
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if is_float(value) => out.push_str(&json_float(f64::try_from(value.clone())?)),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => json_string(value.as_str().unwrap_or_default(), style.ensure_ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut some = false;
            out.push('[');
            for item in value.try_iter()? {
                if some {
                    out.push_str(&style.item_separator);
                }
                some = true;
                line(out, depth + 1);
                write_json(&item, style, out, depth + 1)?;
            }
            if some {
                line(out, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys = value.try_iter()?.collect::<Vec<_>>();
            if style.sort_keys {
                // Rust orders strings by bytes, which is Python's order of code points.
                keys.sort_by(|a, b| match (a.as_str(), b.as_str()) {
                    (Some(a), Some(b)) => a.cmp(b),
                    _ => a.cmp(b),
                });
            }
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                line(out, depth + 1);
                json_string(&json_key(key)?, style.ensure_ascii, out);
                out.push_str(&style.key_separator);
                write_json(&value.get_item(key)?, style, out, depth + 1)?;
            }
            if !keys.is_empty() {
                line(out, depth);
            }
            out.push('}');
        }
        ValueKind::Undefined => {
            return Err(bad("tojson: Object of type Undefined is not JSON serializable".into()));
        }
        kind => return Err(bad(format!("tojson: Object of type {kind} is not JSON serializable"))),
    }
    Ok(())
}
