//! {% generation %} blocks: what the model itself would say. They become filter blocks whose filter puts marks around
//! the text; after rendering the marks come out and their places are the spans.

use std::cell::RefCell;

use minijinja::{Environment, Error, Value};

const FILTER: &str = "viaduct_generation";

thread_local! {
    static MARKS: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
}

/// The inside of a tag: its word, and where the word stands; none when this is no such tag.
fn only_word(inside: &str) -> Option<(&str, usize)> {
    let stripped = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let stripped = stripped.strip_suffix(['-', '+']).unwrap_or(stripped);
    let word = stripped.trim();
    if word != "generation" && word != "endgeneration" {
        return None;
    }
    Some((word, inside.find(word)?))
}

/// Where a tag that began ends: behind `close`, which does not count inside a string.
fn end_of_tag(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut quote = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote != 0 => at += 1,
            byte if quote != 0 => {
                if byte == quote {
                    quote = 0;
                }
            }
            byte @ (b'"' | b'\'') => quote = byte,
            _ if bytes[at..].starts_with(close.as_bytes()) => return at + close.len(),
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The template with filter blocks for generation blocks; and whether there was one.
pub fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let size = match tag.as_bytes().get(1) {
            Some(b'#') if !raw => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') if !raw => 2 + end_of_tag(&tag[2..], "}}"),
            Some(b'%') => 2 + end_of_tag(&tag[2..], "%}"),
            _ => 1,
        };
        let text = &tag[..size];
        rest = &tag[size..];
        if text.starts_with("{%") && text.ends_with("%}") && text.len() >= 4 {
            let inside = &text[2..size - 2];
            let word = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
            match word {
                "raw" => raw = true,
                "endraw" => raw = false,
                _ if raw => {}
                _ => {
                    if let Some((word, place)) = only_word(inside) {
                        found = true;
                        out.push_str("{%");
                        out.push_str(&inside[..place]);
                        out.push_str(if word == "generation" { "filter " } else { "endfilter" });
                        if word == "generation" {
                            out.push_str(FILTER);
                        }
                        out.push_str(&inside[place + word.len()..]);
                        out.push_str("%}");
                        continue;
                    }
                }
            }
            if raw && word != "raw" {
                // Inside of raw text a tag may begin anywhere.
                out.push('{');
                rest = &tag[1..];
                continue;
            }
        }
        out.push_str(text);
    }
    out.push_str(rest);
    (out, found)
}

pub fn install(env: &mut Environment) {
    env.add_filter(FILTER, |text: Value| -> Result<String, Error> {
        let text = text.as_str().unwrap_or_default().to_string();
        crate::filters::checked(text.len())?;
        Ok(MARKS.with(|m| {
            let marks = m.borrow();
            [&marks.0, &text, &marks.1].map(String::as_str).concat()
        }))
    });
}

/// Chooses marks that occur in none of the texts.
pub fn choose_marks(texts: [&str; 2]) {
    let mark = (0u64..)
        .map(|n| format!("\u{FDD0}{n}\u{FDD1}"))
        .find(|mark| texts.iter().all(|text| !text.contains(mark.as_str())))
        .unwrap_or_default();
    let end = mark.replace('\u{FDD1}', "\u{FDD2}");
    MARKS.with(|m| *m.borrow_mut() = (mark, end));
}

/// The text without marks, and the spans between them in characters, in the order in which they end.
pub fn take_marks(text: String) -> (String, Vec<(u32, u32)>) {
    let (begin, end) = MARKS.with(|m| m.borrow().clone());
    let mut out = String::with_capacity(text.len());
    let mut spans = Vec::new();
    let mut open = Vec::new();
    let mut characters = 0u32;
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\u{FDD0}') {
        let (before, mark) = rest.split_at(at);
        characters += before.chars().count() as u32;
        out.push_str(before);
        if mark.starts_with(&begin) {
            open.push(characters);
            rest = &mark[begin.len()..];
        } else if mark.starts_with(&end) {
            if let Some(from) = open.pop() {
                spans.push((from, characters));
            }
            rest = &mark[end.len()..];
        } else {
            out.push('\u{FDD0}');
            characters += 1;
            rest = &mark['\u{FDD0}'.len_utf8()..];
        }
    }
    out.push_str(rest);
    (out, spans)
}
