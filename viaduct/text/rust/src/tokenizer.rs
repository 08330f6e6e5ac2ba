//! tokenizer.json through Hugging Face's crate, with the settings that transformers lays over it.

use serde_json::{json, Value};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

use crate::abi::Encoded;
use crate::pieces::Pieces;

pub struct HfTokenizer {
    tokenizer: Tokenizer,
    /// Encodes without offsets; none where the crate's own way is the only one.
    pieces: Option<Pieces>,
}

fn component<T: serde::de::DeserializeOwned>(settings: &Value, key: &str) -> Result<Option<Option<T>>, String> {
    match settings.get(key) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(value) => serde_json::from_value(value.clone())
            .map(|made| Some(Some(made)))
            .map_err(|e| format!("{key}: {e}")),
    }
}

fn set_model_fields(model: &mut ModelWrapper, fields: &Value) {
    let ModelWrapper::BPE(bpe) = model else { return };
    let text = |key: &str| fields.get(key).map(|v| v.as_str().map(str::to_string));
    let flag = |key: &str, to: &mut bool| {
        if let Some(value) = fields.get(key).and_then(Value::as_bool) {
            *to = value;
        }
    };
    flag("fuse_unk", &mut bpe.fuse_unk);
    flag("byte_fallback", &mut bpe.byte_fallback);
    flag("ignore_merges", &mut bpe.ignore_merges);
    if let Some(value) = text("unk_token") {
        bpe.unk_token = value;
    }
    if let Some(value) = text("continuing_subword_prefix") {
        bpe.continuing_subword_prefix = value;
    }
    if let Some(value) = text("end_of_word_suffix") {
        bpe.end_of_word_suffix = value;
    }
    // Merging with chance has no place in encoding for a model that is used.
    bpe.dropout = None;
}

/// The tokens in front of and behind every text.
fn surrounding(tokenizer: &Tokenizer, template: &Value) -> Result<PostProcessorWrapper, String> {
    let mut special = Vec::new();
    let mut id_of = |key: &str| -> Result<Option<String>, String> {
        let Some(token) = template.get(key).and_then(Value::as_str) else { return Ok(None) };
        let id = tokenizer.token_to_id(token).ok_or_else(|| format!("{key} token '{token}' is not in the vocabulary"))?;
        special.push((token.to_string(), id));
        Ok(Some(token.to_string()))
    };
    let (bos, eos) = (id_of("bos")?, id_of("eos")?);
    // The template's own syntax knows no token with a space in it, so its parts are put together as data.
    let part = |token: &String| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut parts = Vec::new();
    parts.extend(bos.iter().map(part));
    parts.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    parts.extend(eos.iter().map(part));
    let mut pair = parts.clone();
    pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
    let tokens: serde_json::Map<String, Value> = special
        .iter()
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let made: TemplateProcessing = serde_json::from_value(
        json!({"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": tokens}),
    )
    .map_err(|e| format!("template: {e}"))?;
    Ok(PostProcessorWrapper::Template(made))
}

fn added_token(value: &Value) -> Result<AddedToken, String> {
    serde_json::from_value(value.clone()).map_err(|e| format!("added token {value}: {e}"))
}

impl HfTokenizer {
    pub fn open(file: &[u8], settings: &str) -> Result<HfTokenizer, String> {
        let settings: Value = serde_json::from_str(settings).map_err(|e| format!("settings: {e}"))?;
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(|e| format!("no tokenizer.json: {e}"))?;
        if settings.get("forget_added").and_then(Value::as_bool) == Some(true) {
            // A new tokenizer around the same model is the only way to be rid of them.
            let mut bare = Tokenizer::new(tokenizer.get_model().clone());
            let _ = bare
                .with_normalizer(tokenizer.get_normalizer().cloned())
                .with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned())
                .with_decoder(tokenizer.get_decoder().cloned())
                .with_post_processor(tokenizer.get_post_processor().cloned());
            tokenizer = bare;
        }
        if let Some(fields) = settings.get("model") {
            let mut model = tokenizer.get_model().clone();
            set_model_fields(&mut model, fields);
            tokenizer.with_model(model);
        }
        if let Some(normalizer) = component::<NormalizerWrapper>(&settings, "normalizer")? {
            let _ = tokenizer.with_normalizer(normalizer);
        }
        if let Some(pre_tokenizer) = component::<PreTokenizerWrapper>(&settings, "pre_tokenizer")? {
            tokenizer.with_pre_tokenizer(pre_tokenizer);
        }
        if let Some(decoder) = component::<DecoderWrapper>(&settings, "decoder")? {
            tokenizer.with_decoder(decoder);
        }
        if let Some(post_processor) = component::<PostProcessorWrapper>(&settings, "post_processor")? {
            tokenizer.with_post_processor(post_processor);
        }
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(
            settings.get("encode_special_tokens").and_then(Value::as_bool).unwrap_or(false),
        );
        let mut added = Vec::new();
        for value in settings.get("add").and_then(Value::as_array).into_iter().flatten() {
            let mut token = added_token(value)?;
            if value.get("special_if_new").and_then(Value::as_bool).unwrap_or(false)
                && !tokenizer.get_added_tokens_decoder().values().any(|t| *t == token)
            {
                token.special = true;
            }
            let only_new = value.get("unless_added").and_then(Value::as_bool).unwrap_or(false);
            let there = || {
                let content = token.content.as_str();
                added.iter().any(|t: &AddedToken| t.content == content)
                    || tokenizer.get_added_tokens_decoder().values().any(|t| t.content == content)
            };
            if !only_new || !there() {
                added.push(token);
            }
        }
        if !added.is_empty() {
            tokenizer.add_tokens(&added);
        }
        if let Some(template) = settings.get("template") {
            let post_processor = surrounding(&tokenizer, template)?;
            tokenizer.with_post_processor(Some(post_processor));
        }
        let pieces = Pieces::of(&tokenizer);
        Ok(HfTokenizer { tokenizer, pieces })
    }
}

fn has_byte_fallback(decoder: Option<&DecoderWrapper>) -> bool {
    match decoder {
        Some(DecoderWrapper::ByteFallback(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            sequence.get_decoders().iter().any(|d| has_byte_fallback(Some(d)))
        }
        _ => false,
    }
}

impl crate::abi::Tokenizer for HfTokenizer {
    fn info(&self) -> String {
        let model = self.tokenizer.get_model();
        let vocab = model.get_vocab();
        let base = vocab.len();
        let mut added: Vec<(u32, AddedToken)> = self.tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let new = added.iter().filter(|(_, token)| !vocab.contains_key(&token.content)).count();
        let end = vocab.values().copied().chain(added.iter().map(|(id, _)| *id)).max().map_or(0, |id| id as u64 + 1);
        let name = match model {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        };
        let added: Vec<Value> = added
            .into_iter()
            .map(|(id, token)| json!({"id": id, "content": token.content, "special": token.special}))
            .collect();
        json!({
            "vocab_size": base + new, "base_vocab_size": base, "id_end": end, "model": name,
            "byte_fallback": has_byte_fallback(self.tokenizer.get_decoder()), "added": added,
        })
        .to_string()
    }

    fn encode(&self, text: &str, add_special_tokens: bool, offsets: bool) -> Result<Encoded, String> {
        if let (Some(pieces), false) = (&self.pieces, offsets) {
            let ids = pieces.encode(&self.tokenizer, text, add_special_tokens)?;
            return Ok(Encoded { ids, offsets: Vec::new() });
        }
        let encoding = if offsets {
            self.tokenizer.encode_char_offsets(text, add_special_tokens)
        } else {
            self.tokenizer.encode_fast(text, add_special_tokens)
        }
        .map_err(|e| e.to_string())?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: if offsets {
                encoding.get_offsets().iter().map(|(begin, end)| (*begin as u32, *end as u32)).collect()
            } else {
                Vec::new()
            },
        })
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(|e| e.to_string())
    }

    fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        self.tokenizer.token_to_id(std::str::from_utf8(token).ok()?)
    }

    fn id_to_token(&self, id: u32) -> Option<Vec<u8>> {
        self.tokenizer.id_to_token(id).map(String::into_bytes)
    }
}
