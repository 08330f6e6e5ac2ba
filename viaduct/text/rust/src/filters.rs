//! Filters, tests and operators with Jinja's meaning, and the budget that ends what would run or grow without end.

use std::cell::Cell;

use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::methods;
use crate::python;

/// No text that a template makes may be longer (bytes).
pub const LONGEST: usize = 16 << 20;
/// No list may be longer (items).
const LONGEST_LIST: usize = 1 << 20;
/// What one rendering may spend outside of the instructions that minijinja counts: bytes and items that were touched.
const BUDGET: u64 = 1 << 30;

thread_local! {
    static SPENT: Cell<u64> = const { Cell::new(0) };
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn reset_budget() {
    SPENT.with(|s| s.set(0));
}

pub fn charge(cost: usize) -> Result<(), Error> {
    let spent = SPENT.with(|s| {
        s.set(s.get().saturating_add(cost as u64));
        s.get()
    });
    if spent > BUDGET {
        return Err(bad("the template does too much work"));
    }
    Ok(())
}

/// A text of this many bytes may be made.
pub fn checked(size: usize) -> Result<(), Error> {
    if size > LONGEST {
        return Err(bad(format!("the template makes a text of over {} MiB", LONGEST >> 20)));
    }
    charge(size)
}

fn checked_list(size: usize) -> Result<(), Error> {
    if size > LONGEST_LIST {
        return Err(bad(format!("the template makes a list of over {LONGEST_LIST} items")));
    }
    charge(size)
}

/// What it costs to look at a value once.
fn size_of(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value.len().unwrap_or(1),
    }
}

/// All of a value may be looked at. (A list of constants is repeated before any of this sees it.)
fn checked_look(value: &Value) -> Result<(), Error> {
    if value.as_str().is_some() {
        return charge(size_of(value));
    }
    checked_list(size_of(value))
}

fn text_of(value: &Value) -> Result<String, Error> {
    let text = python::str(value)?;
    checked(text.len())?;
    Ok(text)
}

// ---- operators; the names can be written in no template ----

/// Instead of the instruction for `a ~ b`.
pub const CONCAT: &str = "~";
/// `a + b`.
pub const ADD: &str = "+";
/// `a * b`.
pub const MULTIPLY: &str = "*";
/// `a % b`.
pub const REMAINDER: &str = "%";
/// `a in b`.
pub const IN: &str = "<in>";

fn concat(a: Value, b: Value) -> Result<Value, Error> {
    let mut text = text_of(&a)?;
    let other = text_of(&b)?;
    checked(text.len() + other.len())?;
    text.push_str(&other);
    Ok(Value::from(text))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        checked(x.len() + y.len())?;
        return Ok(Value::from([x, y].concat()));
    }
    if is_list(&a) && is_list(&b) {
        checked_list(size_of(&a) + size_of(&b))?;
        return Ok(a.try_iter()?.chain(b.try_iter()?).collect::<Vec<_>>().into());
    }
    arithmetic("+", &a, &b, i128::checked_add, |x, y| x + y)
}

fn number_of(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if !python::is_float(value) => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn arithmetic(
    sign: &str,
    a: &Value,
    b: &Value,
    whole: fn(i128, i128) -> Option<i128>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let refused = || bad(format!("'{sign}' is not defined for {} and {}", a.kind(), b.kind()));
    if let (Some(x), Some(y)) = (number_of(a), number_of(b)) {
        let result = whole(x, y).ok_or_else(|| bad(format!("{x} {sign} {y} has no result")))?;
        return Ok(i64::try_from(result).map(Value::from).unwrap_or_else(|_| Value::from(result)));
    }
    let real_of = |v: &Value| match number_of(v) {
        Some(n) => Some(n as f64),
        None if v.kind() == ValueKind::Number => f64::try_from(v.clone()).ok(),
        None => None,
    };
    match (real_of(a), real_of(b)) {
        (Some(x), Some(y)) => Ok(Value::from(real(x, y))),
        _ => Err(refused()),
    }
}

fn multiply(a: Value, b: Value) -> Result<Value, Error> {
    let (what, times) = if a.as_str().is_some() || is_list(&a) { (&a, &b) } else { (&b, &a) };
    if what.as_str().is_none() && !is_list(what) {
        return arithmetic("*", &a, &b, i128::checked_mul, |x, y| x * y);
    }
    let times = number_of(times).ok_or_else(|| bad("only an integer can repeat a text or a list"))?;
    let times = usize::try_from(times.max(0)).map_err(|_| bad("the template repeats without end"))?;
    if let Some(text) = what.as_str() {
        checked(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    checked_list(size_of(what).saturating_mul(times))?;
    let items: Vec<Value> = what.try_iter()?.collect();
    Ok(Value::from(items.iter().cycle().take(items.len() * times).cloned().collect::<Vec<_>>()))
}

fn remainder(state: &State, a: Value, b: Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        checked_format(text)?;
        let mut args = vec![a];
        if is_list(&b) {
            args.extend(b.try_iter()?);
        } else {
            args.push(b);
        }
        return state.apply_filter("format", &args);
    }
    // The sign of Python's remainder is that of the divisor.
    let whole = |x: i128, y: i128| x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r });
    let real = |x: f64, y: f64| {
        let r = x % y;
        if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
    };
    arithmetic("%", &a, &b, whole, real)
}

fn contains(state: &State, container: Value, value: Value) -> Result<bool, Error> {
    charge(size_of(&container))?;
    state.perform_test("in", &[value, container])
}

// ---- filters ----

fn keyword(kwargs: &Kwargs, given: Option<Value>, name: &str) -> Result<Option<Value>, Error> {
    match given {
        Some(value) => Ok(Some(value)),
        None => kwargs.get::<Option<Value>>(name),
    }
}

fn tojson(value: &Value, args: Rest<Value>) -> Result<String, Error> {
    type Arguments = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let (ensure_ascii, indent, separators, sort_keys, kwargs): Arguments = from_args(&args)?;
    let truth = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let indent = match keyword(&kwargs, indent, "indent")?.filter(|v| !v.is_none()) {
        None => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_string(),
            None => {
                let width = number_of(&value).ok_or_else(|| bad("tojson: indent must be an integer or a string"))?;
                if width > 1000 {
                    return Err(bad("tojson: indent is over 1000"));
                }
                " ".repeat(width.max(0) as usize)
            }
        }),
    };
    let mut style = python::JsonStyle {
        ensure_ascii: truth(keyword(&kwargs, ensure_ascii, "ensure_ascii")?),
        item_separator: if indent.is_some() { ",".into() } else { ", ".into() },
        key_separator: ": ".into(),
        indent,
        sort_keys: truth(keyword(&kwargs, sort_keys, "sort_keys")?),
    };
    if let Some(pair) = keyword(&kwargs, separators, "separators")?.filter(|v| !v.is_none()) {
        let pair: Vec<Value> = pair.try_iter()?.collect();
        let [item, key] = &pair[..] else { return Err(bad("tojson: separators must be two strings")) };
        style.item_separator = text_of(item)?;
        style.key_separator = text_of(key)?;
    }
    kwargs.assert_all_used()?;
    let text = python::json(value, &style)?;
    checked(text.len())?;
    Ok(text)
}

fn string(value: Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value);
    }
    text_of(&value).map(Value::from)
}

fn trim(value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    let text = text_of(value)?;
    Ok(Value::from(match chars {
        Some(set) => text.trim_matches(|c| set.contains(c)),
        None => text.trim_matches(methods::is_space),
    }))
}

fn join(value: &Value, separator: Option<Value>, attribute: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let separator = match keyword(&kwargs, separator, "d")? {
        Some(value) => text_of(&value)?,
        None => String::new(),
    };
    let attribute = keyword(&kwargs, attribute, "attribute")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    if value.is_undefined() {
        return Ok(out);
    }
    checked_look(value)?;
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        if i > 0 {
            out.push_str(&separator);
        }
        out.push_str(&text_of(&item)?);
        if out.len() > LONGEST {
            checked(out.len())?;
        }
    }
    checked(out.len())?;
    Ok(out)
}

fn replace(value: &Value, old: &Value, new: &Value, most: Option<i64>) -> Result<String, Error> {
    methods::replace(&text_of(value)?, &text_of(old)?, &text_of(new)?, most.unwrap_or(-1))
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    charge(size_of(value))?;
    value.len().or_else(|| value.try_iter().ok().map(Iterator::count)).ok_or_else(|| {
        bad(format!("object of type {} has no length", value.kind()))
    })
}

fn indent(state: &State, value: &Value, args: Rest<Value>) -> Result<String, Error> {
    let (width, first, blank, kwargs): (Option<Value>, Option<bool>, Option<bool>, Kwargs) = from_args(&args)?;
    let width = keyword(&kwargs, width, "width")?.unwrap_or_else(|| Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match width.as_str() {
        Some(text) => text.to_string(),
        None => {
            let width = number_of(&width).ok_or_else(|| bad("indent: width must be an integer or a string"))?;
            checked(width.max(0).min(i128::from(u32::MAX)) as usize)?;
            " ".repeat(width.max(0) as usize)
        }
    };
    // A line end behind the text makes the last line a line like the others.
    let text = text_of(value)? + "\n";
    let lines = methods::call(state, &Value::from(text), "splitlines", &[])?;
    let lines: Vec<Value> = lines.try_iter()?.collect();
    checked(lines.len().saturating_mul(indention.len() + 1))?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let line = line.as_str().unwrap_or_default();
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn center(state: &State, value: &Value, width: Option<i64>) -> Result<Value, Error> {
    methods::call(state, &Value::from(text_of(value)?), "center", &[Value::from(width.unwrap_or(80))])
}

fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(methods::is_space).replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let digits = match base {
        16 => digits.strip_prefix("0x").unwrap_or(digits),
        8 => digits.strip_prefix("0o").unwrap_or(digits),
        2 => digits.strip_prefix("0b").unwrap_or(digits),
        _ => digits,
    };
    i128::from_str_radix(digits, base).ok().map(|n| n * sign)
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = keyword(&kwargs, default, "default")?.unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Ok(default);
    }
    let whole = |n: i128| i64::try_from(n).map(Value::from).unwrap_or_else(|_| Value::from(n));
    let cut = |x: f64| (x.is_finite() && x.abs() < 1e38).then(|| whole(x.trunc() as i128));
    Ok(match (number_of(value), value.as_str()) {
        (Some(n), _) => whole(n),
        (_, Some(text)) => match parse_int(text, base) {
            Some(n) => whole(n),
            None => text.trim().parse::<f64>().ok().and_then(cut).unwrap_or(default),
        },
        _ if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok().and_then(cut).unwrap_or(default),
        _ => default,
    })
}

fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = keyword(&kwargs, default, "default")?.unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    Ok(match (number_of(value), value.as_str()) {
        (Some(n), _) => Value::from(n as f64),
        (_, Some(text)) => text.trim().parse::<f64>().map(Value::from).unwrap_or(default),
        _ if value.kind() == ValueKind::Number => value.clone(),
        _ => default,
    })
}

/// Every word begins in upper case and goes on in lower case; words end at white space and at ( { [ < and -.
fn title(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut begin = true;
    for c in text_of(value)?.chars() {
        let between = methods::is_space(c) || "-({[<".contains(c);
        if begin && !between {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begin = between;
    }
    Ok(out)
}

fn capitalize(value: &Value) -> Result<String, Error> {
    Ok(methods::capitalize(&text_of(value)?))
}

fn upper(value: &Value) -> Result<String, Error> {
    Ok(text_of(value)?.to_uppercase())
}

/// Python's rounding: of the number as it is stored, halves to the even neighbour.
fn round(value: Value, precision: Option<i32>, method: Option<&str>) -> Result<Value, Error> {
    if value.is_integer() && precision.unwrap_or(0) >= 0 {
        return Ok(value);
    }
    let number = f64::try_from(value).map_err(|_| bad("round: not a number"))?;
    let places = precision.unwrap_or(0);
    if places.abs() > 300 {
        return Err(bad("round: a precision of over 300 digits"));
    }
    let scale = 10f64.powi(places);
    let rounded = match method.unwrap_or("common") {
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        "common" if places >= 0 => format!("{number:.*}", places as usize).parse().unwrap_or(number),
        "common" => (number * scale).round_ties_even() / scale,
        _ => return Err(bad("round: method must be common, ceil or floor")),
    };
    Ok(Value::from(rounded))
}

fn lower(value: &Value) -> Result<String, Error> {
    Ok(text_of(value)?.to_lowercase())
}

/// A width in a format could ask for any amount of memory.
fn checked_format(text: &str) -> Result<(), Error> {
    let mut digits = 0;
    for c in text.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 4 || c == '*' {
            return Err(bad("a format may not have a width of over 9999 or '*'"));
        }
    }
    checked(text.len())
}

/// minijinja's filters that look at all of their input: the name in a template, and the name of the filter that pays
/// for that look first.
pub const PAID: [(&str, &str); 26] = [
    ("sort", "sort!"),
    ("unique", "unique!"),
    ("groupby", "groupby!"),
    ("map", "map!"),
    ("select", "select!"),
    ("reject", "reject!"),
    ("selectattr", "selectattr!"),
    ("rejectattr", "rejectattr!"),
    ("list", "list!"),
    ("min", "min!"),
    ("max", "max!"),
    ("sum", "sum!"),
    ("reverse", "reverse!"),
    ("batch", "batch!"),
    ("slice", "slice!"),
    ("dictsort", "dictsort!"),
    ("items", "items!"),
    ("last", "last!"),
    ("split", "split!"),
    ("lines", "lines!"),
    ("truncate", "truncate!"),
    ("striptags", "striptags!"),
    ("escape", "escape!"),
    ("e", "e!"),
    ("pprint", "pprint!"),
    ("format", "format!"),
];

fn paid(name: &'static str) -> impl Fn(&State, &Value, Rest<Value>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, value, args| {
        checked_look(value)?;
        if matches!(name, "batch" | "slice") && args.first().and_then(number_of).is_none_or(|n| n > 100_000) {
            return Err(bad(format!("{name}: a number up to 100000 is needed")));
        }
        if name == "format" {
            checked_format(value.as_str().unwrap_or_default())?;
        }
        let mut all = vec![value.clone()];
        all.extend(args.0);
        state.apply_filter(name, &all)
    }
}

fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    checked_look(value)?;
    args.iter().try_for_each(checked_look)?;
    if name == "format" {
        checked_format(value.as_str().unwrap_or_default())?;
    }
    methods::call(state, value, name, args)
}

// ---- tests ----

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || value.as_str().is_some() || value.try_iter().is_ok() && !value.is_none()
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

fn is_integer(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !python::is_float(value)
}

fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// Puts all of this into an environment.
pub fn install(env: &mut Environment) {
    minijinja_contrib::add_to_environment(env);
    env.set_unknown_method_callback(method);
    env.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => {
                charge(text.len())?;
                out.write_str(text)
            }
            None => out.write_str(&text_of(value)?),
        };
        written.map_err(|_| bad("the text could not be written"))
    });
    env.add_filter(CONCAT, concat);
    env.add_filter(ADD, add);
    env.add_filter(MULTIPLY, multiply);
    env.add_filter(REMAINDER, remainder);
    env.add_filter(IN, |state: &State, value: Value, container: Value| contains(state, container, value));
    env.add_filter("tojson", tojson);
    env.add_filter("string", string);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("replace", replace);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("indent", indent);
    env.add_filter("center", center);
    env.add_filter("round", round);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("title", title);
    env.add_filter("capitalize", capitalize);
    env.add_filter("upper", upper);
    env.add_filter("lower", lower);
    for (name, alias) in PAID {
        env.add_filter(alias, paid(name));
    }
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", is_iterable);
    env.add_test("number", is_number);
    env.add_test("integer", is_integer);
    env.add_test("callable", is_callable);
    env.remove_global("debug");
}
