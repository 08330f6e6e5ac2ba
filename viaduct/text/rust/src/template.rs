//! Chat templates: minijinja with Jinja's operators laid under it and a bound on what a template may do.

use std::cell::Cell;
use std::collections::BTreeMap;

use minijinja::machinery::{make_string_output, parse, CodeGenerator, Instruction, Instructions, Vm, WhitespaceConfig};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

use crate::{filters, generation, json};

/// No template is longer (bytes).
const LONGEST_SOURCE: usize = 1 << 20;
/// Instructions that one rendering may take.
const MOST_INSTRUCTIONS: u64 = 5_000_000;
/// Bytes that the plain text of a template may come to, which nothing else counts.
const MOST_PLAIN_TEXT: u64 = 1 << 30;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

pub struct Rendered {
    pub text: String,
    /// (begin, end) in characters.
    pub spans: Vec<(u32, u32)>,
}

pub struct Template {
    // Both borrow from `source`, which is dropped last: fields are dropped in this order.
    instructions: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
    environment: Environment<'static>,
    has_generation: bool,
    source: Box<str>,
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let refused = || Error::new(ErrorKind::InvalidOperation, "strftime_now: the format is too long or no text");
    if format.len() > 1000 {
        return Err(refused());
    }
    if format.is_empty() {
        return Ok(String::new());
    }
    let format = std::ffi::CString::new(format).map_err(|_| refused())?;
    let now = NOW.with(Cell::get) as libc::time_t;
    let mut buffer = vec![0u8; 16384];
    let size = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut parts);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    buffer.truncate(size);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

fn raise_exception(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses this: {message}")))
}

/// Puts filters with Python's meaning in the place of operators, and paid filters in the place of free ones. Each takes
/// the same values from the stack and leaves the same one, so no jump changes.
fn python_operators(instructions: &mut Instructions<'static>) {
    const NOT_CACHED: u8 = !0;
    let mut at = 0;
    while let Some(instruction) = instructions.get_mut(at) {
        let binary = |name| Instruction::ApplyFilter(name, Some(2), NOT_CACHED);
        let replaced = match instruction {
            Instruction::StringConcat => Some(binary(filters::CONCAT)),
            Instruction::Add => Some(binary(filters::ADD)),
            Instruction::Mul => Some(binary(filters::MULTIPLY)),
            Instruction::Rem => Some(binary(filters::REMAINDER)),
            Instruction::In => Some(binary(filters::IN)),
            Instruction::ApplyFilter(name, count, _) => filters::PAID
                .iter()
                .find(|(free, _)| free == name)
                .map(|(_, paid)| Instruction::ApplyFilter(paid, *count, NOT_CACHED)),
            _ => None,
        };
        if let Some(replaced) = replaced {
            *instruction = replaced;
        }
        at += 1;
    }
}

fn longest_plain_text(instructions: &Instructions) -> usize {
    let mut longest = 0;
    let mut at = 0;
    while let Some(instruction) = instructions.get(at) {
        if let Instruction::EmitRaw(text) = instruction {
            longest = longest.max(text.len());
        }
        at += 1;
    }
    longest
}

impl Template {
    pub fn open(source: &str) -> Result<Template, String> {
        if source.len() > LONGEST_SOURCE {
            return Err(format!("the template has {} bytes; at most {LONGEST_SOURCE} are taken", source.len()));
        }
        let (rewritten, has_generation) = generation::rewrite(source);
        let source = rewritten.into_boxed_str();
        // The text behind the box stays where it is when the box moves into the struct.
        let text: &'static str = unsafe { &*(&*source as *const str) };
        let mut environment = Environment::new();
        filters::install(&mut environment);
        generation::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let whitespace =
            WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
        let tree = parse(text, "chat template", Default::default(), whitespace).map_err(|e| describe(&e))?;
        let mut generator = CodeGenerator::new("chat template", text);
        generator.compile_stmt(&tree);
        let (mut instructions, mut blocks) = generator.finish();
        let mut longest = longest_plain_text(&instructions);
        python_operators(&mut instructions);
        for block in blocks.values_mut() {
            longest = longest.max(longest_plain_text(block));
            python_operators(block);
        }
        environment.set_fuel(Some(MOST_INSTRUCTIONS.min(MOST_PLAIN_TEXT / (longest as u64 + 1))));
        Ok(Template { instructions, blocks, environment, has_generation, source })
    }

    pub fn render(&self, variables: &str, now: i64) -> Result<Rendered, String> {
        let root = json::parse(variables)?;
        filters::reset_budget();
        NOW.with(|n| n.set(now));
        if self.has_generation {
            generation::choose_marks([variables, &self.source]);
        }
        let mut text = String::new();
        Vm::new(&self.environment)
            .eval(&self.instructions, root, &self.blocks, &mut make_string_output(&mut text), AutoEscape::None)
            .map_err(|e| describe(&e))?;
        let (text, spans) = if self.has_generation { generation::take_marks(text) } else { (text, Vec::new()) };
        Ok(Rendered { text, spans })
    }
}

fn describe(error: &Error) -> String {
    let mut text = match error.kind() {
        ErrorKind::OutOfFuel => "the template runs without end".to_string(),
        _ => error.to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}
