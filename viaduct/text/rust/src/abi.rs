//! The exported functions: arguments in, errors and panics out as messages.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::template::Template;
use crate::tiktoken::Tiktoken;
use crate::tokenizer::HfTokenizer;

/// `ViaductTextBytes`.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    fn of(content: Vec<u8>) -> Bytes {
        let content = content.into_boxed_slice();
        let size = content.len();
        Bytes { data: Box::into_raw(content) as *mut u8, size }
    }
}

/// What every kind of tokenizer does.
pub trait Tokenizer: Send + Sync {
    fn info(&self) -> String;
    fn encode(&self, text: &str, add_special_tokens: bool, offsets: bool) -> Result<Encoded, String>;
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String>;
    fn token_to_id(&self, token: &[u8]) -> Option<u32>;
    fn id_to_token(&self, id: u32) -> Option<Vec<u8>>;
}

pub struct Encoded {
    pub ids: Vec<u32>,
    /// (begin, end) in characters.
    pub offsets: Vec<(u32, u32)>,
}

/// The tokenizer behind a pointer that C++ holds.
pub struct TokenizerBox(Box<dyn Tokenizer>);

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}
static QUIET: Once = Once::new();

/// A panic inside one of our calls is kept as text instead of being printed; others' panics go where they went.
fn install_hook() {
    QUIET.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with(Cell::get) {
                PANIC.with(|p| *p.borrow_mut() = info.to_string());
            } else {
                previous(info);
            }
        }));
    });
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let said = PANIC.with(|p| std::mem::take(&mut *p.borrow_mut()));
    if !said.is_empty() {
        return said.replace('\n', " ");
    }
    match payload.downcast_ref::<&str>() {
        Some(text) => text.to_string(),
        None => "panic".to_string(),
    }
}

/// Runs `body`; 0, or 1 with its message, or 2 with that of a panic.
fn guarded(error: *mut Bytes, body: impl FnOnce() -> Result<(), String>) -> i32 {
    install_hook();
    let outer = CATCHING.with(|c| c.replace(true));
    let result = catch_unwind(AssertUnwindSafe(body));
    CATCHING.with(|c| c.set(outer));
    let (code, message) = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(message)) => (1, message),
        Err(payload) => (2, panic_text(payload)),
    };
    if !error.is_null() {
        unsafe { *error = Bytes::of(message.into_bytes()) };
    }
    code
}

/// The bytes that C++ hands over; they live as long as the call.
fn input<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        &[]
    } else {
        unsafe { std::slice::from_raw_parts(data, size) }
    }
}

fn text<'a>(data: *const u8, size: usize, what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(input(data, size))
        .map_err(|e| format!("{what} is not UTF-8 (byte {})", e.valid_up_to()))
}

fn put(out: *mut Bytes, content: Vec<u8>) {
    unsafe { *out = Bytes::of(content) };
}

fn numbers(values: impl Iterator<Item = u32>) -> Vec<u8> {
    values.flat_map(u32::to_ne_bytes).collect()
}

fn pairs(values: &[(u32, u32)]) -> Vec<u8> {
    numbers(values.iter().flat_map(|p| [p.0, p.1]))
}

#[no_mangle]
pub extern "C" fn viaduct_text_free_bytes(bytes: *mut Bytes) {
    if bytes.is_null() {
        return;
    }
    unsafe {
        if !(*bytes).data.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut((*bytes).data, (*bytes).size)));
        }
        (*bytes).data = std::ptr::null_mut();
        (*bytes).size = 0;
    }
}

#[no_mangle]
pub extern "C" fn viaduct_text_open_tokenizer(
    json: *const u8,
    json_size: usize,
    settings: *const u8,
    settings_size: usize,
    tokenizer: *mut *mut TokenizerBox,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let opened = HfTokenizer::open(input(json, json_size), text(settings, settings_size, "settings")?)?;
        unsafe { *tokenizer = Box::into_raw(Box::new(TokenizerBox(Box::new(opened)))) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_open_tiktoken(
    ranks: *const u8,
    ranks_size: usize,
    settings: *const u8,
    settings_size: usize,
    tokenizer: *mut *mut TokenizerBox,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let opened = Tiktoken::open(input(ranks, ranks_size), text(settings, settings_size, "settings")?)?;
        unsafe { *tokenizer = Box::into_raw(Box::new(TokenizerBox(Box::new(opened)))) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_free_tokenizer(tokenizer: *mut TokenizerBox) {
    if !tokenizer.is_null() {
        drop(unsafe { Box::from_raw(tokenizer) });
    }
}

#[no_mangle]
pub extern "C" fn viaduct_text_tokenizer_info(
    tokenizer: *const TokenizerBox,
    json: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        put(json, unsafe { &*tokenizer }.0.info().into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_encode(
    tokenizer: *const TokenizerBox,
    data: *const u8,
    size: usize,
    add_special_tokens: i32,
    ids: *mut Bytes,
    offsets: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let text = text(data, size, "the text")?;
        let encoded =
            unsafe { &*tokenizer }.0.encode(text, add_special_tokens != 0, !offsets.is_null())?;
        put(ids, numbers(encoded.ids.iter().copied()));
        if !offsets.is_null() {
            put(offsets, pairs(&encoded.offsets));
        }
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_decode(
    tokenizer: *const TokenizerBox,
    ids: *const u32,
    count: usize,
    skip_special_tokens: i32,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let ids = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(ids, count) } };
        put(out, unsafe { &*tokenizer }.0.decode(ids, skip_special_tokens != 0)?.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_token_to_id(
    tokenizer: *const TokenizerBox,
    token: *const u8,
    token_size: usize,
) -> i64 {
    let mut id = -1;
    guarded(std::ptr::null_mut(), || {
        if let Some(found) = unsafe { &*tokenizer }.0.token_to_id(input(token, token_size)) {
            id = found as i64;
        }
        Ok(())
    });
    id
}

#[no_mangle]
pub extern "C" fn viaduct_text_id_to_token(
    tokenizer: *const TokenizerBox,
    id: u32,
    token: *mut Bytes,
) -> i32 {
    guarded(std::ptr::null_mut(), || {
        let found = unsafe { &*tokenizer }.0.id_to_token(id).ok_or_else(String::new)?;
        put(token, found);
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_open_template(
    source: *const u8,
    source_size: usize,
    compiled: *mut *mut Template,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let opened = Template::open(text(source, source_size, "the template")?)?;
        unsafe { *compiled = Box::into_raw(Box::new(opened)) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn viaduct_text_free_template(compiled: *mut Template) {
    if !compiled.is_null() {
        drop(unsafe { Box::from_raw(compiled) });
    }
}

#[no_mangle]
pub extern "C" fn viaduct_text_render(
    compiled: *const Template,
    variables: *const u8,
    variables_size: usize,
    now: i64,
    out: *mut Bytes,
    spans: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(error, || {
        let variables = text(variables, variables_size, "the variables")?;
        let rendered = unsafe { &*compiled }.render(variables, now)?;
        put(out, rendered.text.into_bytes());
        put(spans, pairs(&rendered.spans));
        Ok(())
    })
}
