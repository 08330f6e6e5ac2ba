//! Python's methods of strings, lists and dicts, where minijinja-contrib's differ or are missing.

use minijinja::value::{from_args, Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::filters::checked;

/// str.isspace of one character: Unicode's white space and the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn in_set<'a>(chars: &'a Option<&str>) -> impl Fn(char) -> bool + 'a {
    move |c| match chars {
        Some(set) => set.contains(c),
        None => is_space(c),
    }
}

fn split_space(text: &str, most: i64) -> Vec<Value> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if most >= 0 && out.len() as i64 == most {
            out.push(Value::from(rest.trim_end_matches(is_space)));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        out.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    out
}

fn rsplit_space(text: &str, most: i64) -> Vec<Value> {
    let mut out = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if most >= 0 && out.len() as i64 == most {
            out.push(Value::from(rest.trim_start_matches(is_space)));
            break;
        }
        let begin = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(i, c)| i + c.len_utf8());
        out.push(Value::from(&rest[begin..]));
        rest = rest[..begin].trim_end_matches(is_space);
    }
    out.reverse();
    out
}

/// str.split and, from the end, str.rsplit.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        None => kwargs.get::<Option<Value>>("sep")?,
        given => given,
    };
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let Some(separator) = separator.filter(|s| !s.is_none()) else {
        return Ok(Value::from(if from_end { rsplit_space(text, most) } else { split_space(text, most) }));
    };
    let separator = separator.as_str().ok_or_else(|| bad("split: the separator must be a string".into()))?;
    if separator.is_empty() {
        return Err(bad("split: empty separator".into()));
    }
    let parts: Vec<Value> = match (most < 0, from_end) {
        (true, _) => text.split(separator).map(Value::from).collect(),
        (false, false) => text.splitn(most as usize + 1, separator).map(Value::from).collect(),
        (false, true) => {
            let mut parts: Vec<Value> = text.rsplitn(most as usize + 1, separator).map(Value::from).collect();
            parts.reverse();
            parts
        }
    };
    Ok(Value::from(parts))
}

fn splitlines(text: &str, keep: bool) -> Vec<Value> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            out.push(Value::from(rest));
            break;
        };
        let mut end = at + rest[at..].chars().next().unwrap().len_utf8();
        if rest[at..].starts_with("\r\n") {
            end = at + 2;
        }
        out.push(Value::from(if keep { &rest[..end] } else { &rest[..at] }));
        rest = &rest[end..];
    }
    out
}

fn characters_before(text: &str, byte: Option<usize>) -> i64 {
    byte.map_or(-1, |b| text[..b].chars().count() as i64)
}

/// The part of a text between two positions in characters, as str.find takes them; and where it begins.
fn part(text: &str, begin: Option<i64>, end: Option<i64>) -> (&str, usize) {
    if begin.is_none() && end.is_none() {
        return (text, 0);
    }
    let count = text.chars().count() as i64;
    let place = |i: i64| (if i < 0 { (i + count).max(0) } else { i.min(count) }) as usize;
    let byte = |i: usize| text.char_indices().nth(i).map_or(text.len(), |(b, _)| b);
    let (b, e) = (place(begin.unwrap_or(0)), place(end.unwrap_or(count)));
    if b > e {
        return ("", text.len());
    }
    (&text[byte(b)..byte(e)], byte(b))
}

fn all(text: &str, test: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(test))
}

fn cased(text: &str, wanted: fn(&char) -> bool, unwanted: fn(&char) -> bool) -> Value {
    Value::from(text.chars().any(|c| wanted(&c)) && !text.chars().any(|c| unwanted(&c)))
}

/// str.title: every run of letters begins in upper case and goes on in lower case.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        let letter = c.is_lowercase() || c.is_uppercase();
        if letter && inside {
            out.extend(c.to_lowercase());
        } else if letter {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        inside = letter;
    }
    out
}

pub fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    match rest.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &rest.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Text with `old` replaced, at most `most` times when that is not negative.
pub fn replace(text: &str, old: &str, new: &str, most: i64) -> Result<String, Error> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = if most < 0 { found } else { found.min(most as usize) };
    checked(text.len().saturating_add(times.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, times))
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let set = in_set(&chars);
            Value::from(match method {
                "strip" => text.trim_matches(set),
                "lstrip" => text.trim_start_matches(set),
                _ => text.trim_end_matches(set),
            })
        }
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Value::from(splitlines(text, keep.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(bad(format!("{method}: empty separator")));
            }
            let at = if method == "partition" { text.find(separator) } else { text.rfind(separator) };
            let parts = match at {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            parts.iter().map(|part| Value::from(*part)).collect()
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            Value::from(replace(text, old, new, most.unwrap_or(-1))?)
        }
        "count" => {
            let (what, begin, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (text, _) = part(text, begin, end);
            Value::from(if what.is_empty() { text.chars().count() + 1 } else { text.matches(what).count() })
        }
        "find" | "index" | "rfind" | "rindex" => {
            let (what, begin, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (inside, offset) = part(text, begin, end);
            let at = if method.starts_with('r') { inside.rfind(what) } else { inside.find(what) };
            if at.is_none() && method.ends_with("index") {
                return Err(bad("substring not found".into()));
            }
            Value::from(characters_before(text, at.map(|at| at + offset)))
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut parts = Vec::new();
            let mut size = 0usize;
            for value in values.try_iter()? {
                let part = value.as_str().ok_or_else(|| bad(format!("join: expected str, found {}", value.kind())))?;
                size = size.saturating_add(part.len() + text.len());
                checked(size)?;
                parts.push(part.to_string());
            }
            Value::from(parts.join(text))
        }
        "isspace" => all(text, is_space),
        "isalpha" => all(text, char::is_alphabetic),
        "isalnum" => all(text, char::is_alphanumeric),
        "isdigit" | "isnumeric" | "isdecimal" => all(text, char::is_numeric),
        "islower" => cased(text, |c| c.is_lowercase(), |c| c.is_uppercase()),
        "isupper" => cased(text, |c| c.is_uppercase(), |c| c.is_lowercase()),
        "title" => Value::from(title(text)),
        "capitalize" => Value::from(capitalize(text)),
        "casefold" => Value::from(text.to_lowercase()),
        "zfill" | "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = if method == "zfill" { "0" } else { fill.unwrap_or(" ") };
            if fill.chars().count() != 1 {
                return Err(bad(format!("{method}: the fill character must be exactly one character long")));
            }
            let missing = (width - text.chars().count() as i64).max(0) as usize;
            checked(missing.saturating_mul(fill.len()))?;
            let pad = |n: usize| fill.repeat(n);
            Value::from(match method {
                "zfill" => match text.strip_prefix(['+', '-']) {
                    Some(digits) => text[..1].to_string() + &pad(missing) + digits,
                    None => pad(missing) + text,
                },
                "ljust" => text.to_string() + &pad(missing),
                "rjust" => pad(missing) + text,
                _ => {
                    // Python leans to the left when the width is odd.
                    let left = missing / 2 + (missing & width.max(0) as usize & 1);
                    pad(left) + text + &pad(missing - left)
                }
            })
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            at.map(|at| Some(Value::from(at))).ok_or_else(|| bad("the value is not in the list".into()))
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            Err(bad(format!("a template may not change a list ('{method}')")))
        }
        "copy" => Ok(Some(value.clone())),
        _ => Ok(None),
    }
}

/// What a method that minijinja does not know gives.
pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        ValueKind::Map if matches!(method, "pop" | "update" | "clear" | "setdefault" | "popitem") => {
            return Err(bad(format!("a template may not change a dict ('{method}')")));
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}
