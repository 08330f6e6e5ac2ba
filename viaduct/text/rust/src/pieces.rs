//! Encoding without offsets for byte-level tokenizers. The crate makes strings with alignments of every piece that its
//! patterns cut a text into; here a piece is a slice, and what the model makes of it is remembered. The same ids.

use std::collections::HashMap;
use std::sync::Mutex;

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{
    Encoding, Model, ModelWrapper, OffsetReferential, OffsetType, PostProcessor, PreTokenizerWrapper, Token, Tokenizer,
};

/// What ByteLevel cuts with unless it is told not to; Split cuts the same way.
const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const SHARDS: usize = 64;
/// Pieces that a shard remembers, and the bytes of the longest: no text takes more memory than that.
const PIECES_OF_SHARD: usize = 8192;
const LONGEST_PIECE: usize = 128;

enum Cut {
    /// Matches and what is between them.
    Pattern(Split),
    /// Every digit by itself.
    EachDigit,
    /// Runs of digits.
    Digits,
}

impl Cut {
    fn of(wrapper: &PreTokenizerWrapper) -> Option<Cut> {
        match wrapper {
            PreTokenizerWrapper::Split(split) if split.behavior == SplitDelimiterBehavior::Isolated => {
                Some(Cut::Pattern(split.clone()))
            }
            PreTokenizerWrapper::Digits(digits) if digits.individual_digits => Some(Cut::EachDigit),
            PreTokenizerWrapper::Digits(_) => Some(Cut::Digits),
            _ => None,
        }
    }

    fn pieces<'t>(&self, text: &'t str, mut take: impl FnMut(&'t str) -> Result<(), String>) -> Result<(), String> {
        let mut begin = 0;
        let mut until = |end: usize| -> Result<(), String> {
            let piece = &text[begin..end];
            begin = end;
            if piece.is_empty() {
                Ok(())
            } else {
                take(piece)
            }
        };
        match self {
            Cut::Pattern(split) => {
                for (start, end) in split.regex.find_iter(text) {
                    until(start)?;
                    until(end)?;
                }
            }
            Cut::EachDigit => {
                for (at, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                    until(at)?;
                    until(at + c.len_utf8())?;
                }
            }
            Cut::Digits => {
                let mut inside = false;
                for (at, c) in text.char_indices() {
                    if c.is_numeric() != inside {
                        until(at)?;
                        inside = !inside;
                    }
                }
            }
        }
        until(text.len())
    }
}

pub struct Pieces {
    cuts: Vec<Cut>,
    prefix_space: bool,
    /// Of ByteLevel, after the space.
    last_cut: Option<Cut>,
    letters: Vec<char>,
    /// Special tokens around a text.
    before: Vec<u32>,
    after: Vec<u32>,
    known: Vec<Mutex<HashMap<Box<str>, Box<[u32]>>>>,
}

/// The letter that stands for each byte: itself where it is printable, else the next one from 256 on.
fn letters() -> Vec<char> {
    let mut next = 256;
    (0..=255u32)
        .map(|byte| {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("codes below 512 are letters")
        })
        .collect()
}

impl Pieces {
    /// None where a tokenizer cuts in another way, or by chance.
    pub fn of(tokenizer: &Tokenizer) -> Option<Pieces> {
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model() {
            if bpe.dropout.is_some_and(|chance| chance > 0.0) {
                return None;
            }
        }
        let all: &[PreTokenizerWrapper] = match tokenizer.get_pre_tokenizer()? {
            PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
            one => std::slice::from_ref(one),
        };
        let (last, first) = all.split_last()?;
        let PreTokenizerWrapper::ByteLevel(ByteLevel { add_prefix_space, use_regex, .. }) = last else { return None };
        let last_cut = match use_regex {
            true => {
                let pattern = SplitPattern::Regex(GPT2_PATTERN.to_string());
                Some(Cut::Pattern(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?))
            }
            false => None,
        };
        let (before, after) = surroundings(tokenizer)?;
        Some(Pieces {
            cuts: first.iter().map(Cut::of).collect::<Option<Vec<Cut>>>()?,
            prefix_space: *add_prefix_space,
            last_cut,
            letters: letters(),
            before,
            after,
            known: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    pub fn encode(&self, tokenizer: &Tokenizer, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        if add_special_tokens {
            ids.extend_from_slice(&self.before);
        }
        let parts = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
        for (part, _, tokens) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => self.cut(tokenizer, part, &self.cuts, &mut ids)?,
            }
        }
        if add_special_tokens {
            ids.extend_from_slice(&self.after);
        }
        Ok(ids)
    }

    fn cut(&self, tokenizer: &Tokenizer, text: &str, cuts: &[Cut], ids: &mut Vec<u32>) -> Result<(), String> {
        if let Some((cut, rest)) = cuts.split_first() {
            return cut.pieces(text, |piece| self.cut(tokenizer, piece, rest, ids));
        }
        if text.is_empty() {
            return Ok(());
        }
        let with_space;
        let text = if self.prefix_space && !text.starts_with(' ') {
            with_space = format!(" {text}");
            with_space.as_str()
        } else {
            text
        };
        match &self.last_cut {
            Some(cut) => cut.pieces(text, |piece| self.look_up(tokenizer, piece, ids)),
            None => self.look_up(tokenizer, text, ids),
        }
    }

    fn look_up(&self, tokenizer: &Tokenizer, piece: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let bytes = piece.as_bytes();
        let mix = bytes.len() + 31 * bytes[0] as usize + 7 * bytes[bytes.len() - 1] as usize;
        let shard = || self.known[mix % SHARDS].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = shard().get(piece) {
            ids.extend_from_slice(found);
            return Ok(());
        }
        let letters: String = bytes.iter().map(|byte| self.letters[*byte as usize]).collect();
        let tokens = tokenizer.get_model().tokenize(&letters).map_err(|e| e.to_string())?;
        let made: Box<[u32]> = tokens.iter().map(|token| token.id).collect();
        ids.extend_from_slice(&made);
        if bytes.len() <= LONGEST_PIECE {
            let mut known = shard();
            if known.len() < PIECES_OF_SHARD {
                known.insert(piece.into(), made);
            }
        }
        Ok(())
    }
}

/// The ids that the post-processor puts in front of and behind those of any text.
fn surroundings(tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    const TEXT: u32 = u32::MAX;
    let Some(processor) = tokenizer.get_post_processor() else { return Some((Vec::new(), Vec::new())) };
    let text = Encoding::from_tokens(vec![Token::new(TEXT, "a".to_string(), (0, 1))], 0);
    let all = processor.process(text, None, true).ok()?.get_ids().to_vec();
    let at = all.iter().position(|id| *id == TEXT)?;
    if all[at + 1..].contains(&TEXT) {
        return None;
    }
    Some((all[..at].to_vec(), all[at + 1..].to_vec()))
}
