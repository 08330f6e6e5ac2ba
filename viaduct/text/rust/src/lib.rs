//! The Rust part of the text layer; `../text_abi.h` says what each exported function does.

mod abi;
mod filters;
mod generation;
mod json;
mod methods;
mod pieces;
mod python;
mod template;
mod tiktoken;
mod tokenizer;
