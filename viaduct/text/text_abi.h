// The C ABI of the Rust part of this layer (rust/): tokenizers as Hugging Face's crate has them, tiktoken's
// byte-pair encoding, and templates in minijinja. Everything else of the layer is C++. Include rust_library.h
// instead: it frees what is returned here and throws what goes wrong.
//
// Every function that can fail returns 0, or 1 when the input cannot be used, or 2 for a defect; `error` then holds
// the message in UTF-8. Strings are UTF-8 with their length, never ended by a zero. Objects may be used by several
// threads at once, but not while they are freed. Nothing is ever printed and no panic leaves a function.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Bytes that belong to the library until viaduct_text_free_bytes.
typedef struct ViaductTextBytes {
  uint8_t* data;
  size_t size;
} ViaductTextBytes;

/// A tokenizer: a tokenizer.json with settings, or tiktoken ranks.
typedef struct ViaductTextTokenizer ViaductTextTokenizer;
/// A compiled chat template.
typedef struct ViaductTextTemplate ViaductTextTemplate;

/// Frees what a function returned, and empties it.
void viaduct_text_free_bytes(ViaductTextBytes* bytes);

/// A tokenizer from the text of a tokenizer.json. `settings` is a JSON object; all keys are optional: "model"
/// (fields of a BPE model to set: fuse_unk, byte_fallback, unk_token, continuing_subword_prefix,
/// end_of_word_suffix, ignore_merges), "normalizer", "pre_tokenizer", "decoder", "post_processor" (what replaces
/// the file's; null: none), "forget_added" (true: the file's added tokens are not taken), "add" (added tokens in
/// tokenizer.json's form, in order; with "unless_added" true only those that are not there), "template" ({"bos":
/// token or null, "eos": token or null}: what surrounds every text, instead of the post-processor),
/// "encode_special_tokens" (true: special tokens in a text are text).
int viaduct_text_open_tokenizer(const uint8_t* json, size_t json_size, const uint8_t* settings,
                                size_t settings_size, ViaductTextTokenizer** tokenizer, ViaductTextBytes* error);

/// A tokenizer from tiktoken's ranks: for each token uint32 rank, uint32 length, bytes, all in native order.
/// `settings` is a JSON object: "pattern" (a regular expression in tiktoken's dialect), "special_tokens" (an
/// object: text to id).
int viaduct_text_open_tiktoken(const uint8_t* ranks, size_t ranks_size, const uint8_t* settings,
                               size_t settings_size, ViaductTextTokenizer** tokenizer, ViaductTextBytes* error);

/// Frees a tokenizer; null is allowed.
void viaduct_text_free_tokenizer(ViaductTextTokenizer* tokenizer);

/// A JSON object that describes the tokenizer: "vocab_size" (tokens, added ones included), "base_vocab_size",
/// "id_end" (1 + the largest id), "model" ("BPE", "Unigram", "WordPiece", "WordLevel", "tiktoken"), "byte_fallback"
/// (the decoder joins tokens such as <0x0A> to bytes), "added" (the added tokens in tokenizer.json's form, by id).
int viaduct_text_tokenizer_info(const ViaductTextTokenizer* tokenizer, ViaductTextBytes* json,
                                ViaductTextBytes* error);

/// Ids of a text as uint32. With `offsets` not null also uint32 pairs (begin, end), one a token: positions in the
/// text counted in characters (code points); tokens that are no part of the text have (0, 0).
int viaduct_text_encode(const ViaductTextTokenizer* tokenizer, const uint8_t* text, size_t text_size,
                        int add_special_tokens, ViaductTextBytes* ids, ViaductTextBytes* offsets,
                        ViaductTextBytes* error);

/// The text of ids; unknown ids are skipped.
int viaduct_text_decode(const ViaductTextTokenizer* tokenizer, const uint32_t* ids, size_t count,
                        int skip_special_tokens, ViaductTextBytes* text, ViaductTextBytes* error);

/// The id of a token, or -1 when there is none.
int64_t viaduct_text_token_to_id(const ViaductTextTokenizer* tokenizer, const uint8_t* token, size_t token_size);

/// The token of an id, as the vocabulary writes it; 1 when there is none. tiktoken's tokens are bytes.
int viaduct_text_id_to_token(const ViaductTextTokenizer* tokenizer, uint32_t id, ViaductTextBytes* token);

/// Compiles a template as transformers does (trim_blocks, lstrip_blocks, loop controls, generation blocks).
int viaduct_text_open_template(const uint8_t* source, size_t source_size, ViaductTextTemplate** compiled,
                               ViaductTextBytes* error);

/// Frees a template; null is allowed.
void viaduct_text_free_template(ViaductTextTemplate* compiled);

/// Renders with the variables of a JSON object (which may hold NaN and Infinity, as Python writes them). `spans`
/// are uint32 pairs (begin, end): what generation blocks wrote, counted in characters of the text. `now` is the
/// time for strftime_now, in seconds since 1970. A template that would run or grow without end is an error.
int viaduct_text_render(const ViaductTextTemplate* compiled, const uint8_t* variables, size_t variables_size,
                        int64_t now, ViaductTextBytes* text, ViaductTextBytes* spans, ViaductTextBytes* error);

#ifdef __cplusplus
}
#endif
