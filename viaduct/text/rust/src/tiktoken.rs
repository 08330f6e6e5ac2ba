//! tiktoken's encoding: special tokens, a split by a regular expression, then byte pairs merged by rank.

use std::collections::HashMap;

use fancy_regex::Regex;
use serde_json::{json, Value};

use crate::abi::Encoded;

pub struct Tiktoken {
    rank: HashMap<Vec<u8>, u32>,
    token: HashMap<u32, Vec<u8>>,
    special: HashMap<String, u32>,
    special_id: HashMap<u32, String>,
    /// Finds the special tokens in a text; none when there are none.
    find_special: Option<regex::Regex>,
    pattern: Regex,
}

const NO_RANK: u32 = u32::MAX;

/// Byte positions at which the tokens of `piece` begin, and its end.
fn merge(piece: &[u8], rank: &HashMap<Vec<u8>, u32>) -> Vec<usize> {
    if piece.len() > 100 {
        return merge_long(piece, rank);
    }
    let rank_of = |starts: &[usize], i: usize| {
        if i + 2 < starts.len() {
            rank.get(&piece[starts[i]..starts[i + 2]]).copied().unwrap_or(NO_RANK)
        } else {
            NO_RANK
        }
    };
    let mut starts: Vec<usize> = (0..=piece.len()).collect();
    let mut ranks: Vec<u32> = (0..starts.len()).map(|i| rank_of(&starts, i)).collect();
    loop {
        let Some((i, best)) = ranks.iter().copied().enumerate().min_by_key(|(_, r)| *r) else { break };
        if best == NO_RANK {
            break;
        }
        starts.remove(i + 1);
        ranks.remove(i + 1);
        ranks[i] = rank_of(&starts, i);
        if i > 0 {
            ranks[i - 1] = rank_of(&starts, i - 1);
        }
    }
    starts
}

/// The same with a heap and links, so that a piece of a megabyte without a break does not take a square of that.
fn merge_long(piece: &[u8], rank: &HashMap<Vec<u8>, u32>) -> Vec<usize> {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    let n = piece.len();
    // The token that begins at i ends at next[i]; a token that was merged away has next 0.
    let mut next: Vec<usize> = (1..=n).collect();
    let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
    let mut heap = BinaryHeap::new();
    let pair = |begin: usize, middle: usize, next: &[usize]| -> Option<(u32, usize, usize, usize)> {
        if middle >= n {
            return None;
        }
        let end = next[middle];
        rank.get(&piece[begin..end]).map(|r| (*r, begin, middle, end))
    };
    for i in 0..n {
        if let Some(found) = pair(i, next[i], &next) {
            heap.push(Reverse(found));
        }
    }
    while let Some(Reverse((_, begin, middle, end))) = heap.pop() {
        if next[begin] != middle || next[middle] != end {
            continue;
        }
        next[begin] = end;
        next[middle] = 0;
        if end < n {
            previous[end] = begin;
        }
        if let Some(found) = pair(begin, end, &next) {
            heap.push(Reverse(found));
        }
        if begin > 0 {
            let before = previous[begin];
            if let Some(found) = pair(before, begin, &next) {
                heap.push(Reverse(found));
            }
        }
    }
    let mut starts = vec![0];
    while *starts.last().unwrap() < n {
        starts.push(next[*starts.last().unwrap()]);
    }
    starts
}

fn read_ranks(mut ranks: &[u8]) -> Result<HashMap<Vec<u8>, u32>, String> {
    let mut made = HashMap::new();
    while !ranks.is_empty() {
        let number = |at: usize| ranks.get(at..at + 4).map(|b| u32::from_ne_bytes(b.try_into().unwrap()));
        let (Some(rank), Some(length)) = (number(0), number(4)) else { return Err("ranks end early".into()) };
        let token = ranks.get(8..8 + length as usize).ok_or("ranks end early")?;
        if rank == NO_RANK || made.insert(token.to_vec(), rank).is_some() {
            return Err(format!("the token of rank {rank} is there twice"));
        }
        ranks = &ranks[8 + length as usize..];
    }
    Ok(made)
}

impl Tiktoken {
    pub fn open(ranks: &[u8], settings: &str) -> Result<Tiktoken, String> {
        let settings: Value = serde_json::from_str(settings).map_err(|e| format!("settings: {e}"))?;
        let rank = read_ranks(ranks)?;
        let mut token = HashMap::new();
        for (bytes, id) in &rank {
            if token.insert(*id, bytes.clone()).is_some() {
                return Err(format!("two tokens have the rank {id}"));
            }
        }
        for byte in 0..=255u8 {
            if !rank.contains_key(&[byte][..]) {
                return Err(format!("the byte 0x{byte:02X} has no token"));
            }
        }
        let mut special = HashMap::new();
        let mut special_id = HashMap::new();
        for (text, id) in settings.get("special_tokens").and_then(Value::as_object).into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| format!("special token '{text}': its id is no id"))?;
            if token.contains_key(&id) || special_id.insert(id, text.clone()).is_some() {
                return Err(format!("special token '{text}': its id {id} belongs to another token"));
            }
            special.insert(text.clone(), id);
        }
        let find_special = if special.is_empty() {
            None
        } else {
            let mut texts: Vec<String> = special.keys().map(|t| regex::escape(t)).collect();
            texts.sort_by_key(|t| std::cmp::Reverse(t.len()));
            Some(regex::Regex::new(&texts.join("|")).map_err(|e| format!("special tokens: {e}"))?)
        };
        let pattern = settings.get("pattern").and_then(Value::as_str).ok_or("settings: no pattern")?;
        let pattern = Regex::new(pattern).map_err(|e| format!("pattern: {e}"))?;
        Ok(Tiktoken { rank, token, special, special_id, find_special, pattern })
    }

    /// Tokens of a text without special tokens: (id, bytes).
    fn encode_ordinary(&self, text: &str, out: &mut Vec<(u32, usize)>) -> Result<(), String> {
        for found in self.pattern.find_iter(text) {
            let piece = found.map_err(|e| format!("the split into words: {e}"))?.as_str().as_bytes();
            if let Some(id) = self.rank.get(piece) {
                out.push((*id, piece.len()));
                continue;
            }
            let starts = merge(piece, &self.rank);
            for pair in starts.windows(2) {
                out.push((self.rank[&piece[pair[0]..pair[1]]], pair[1] - pair[0]));
            }
        }
        Ok(())
    }
}

impl crate::abi::Tokenizer for Tiktoken {
    fn info(&self) -> String {
        let end = self.token.keys().chain(self.special_id.keys()).copied().max().map_or(0, |id| id as u64 + 1);
        let mut ids: Vec<&u32> = self.special_id.keys().collect();
        ids.sort();
        let added: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "content": self.special_id[id], "special": true})).collect();
        json!({
            "vocab_size": self.token.len() + self.special_id.len(), "base_vocab_size": self.token.len(),
            "id_end": end, "model": "tiktoken", "byte_fallback": false, "added": added,
        })
        .to_string()
    }

    fn encode(&self, text: &str, _add_special_tokens: bool, offsets: bool) -> Result<Encoded, String> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let special = self.find_special.as_ref().and_then(|r| r.find_at(text, at));
            let end = special.map_or(text.len(), |m| m.start());
            self.encode_ordinary(&text[at..end], &mut tokens)?;
            at = end;
            if let Some(found) = special {
                tokens.push((self.special[found.as_str()], found.len()));
                at = found.end();
            }
        }
        let ids = tokens.iter().map(|(id, _)| *id).collect();
        let mut spans = Vec::new();
        if offsets {
            // A token may begin inside a character, and then its span begins with that character.
            let bytes = text.as_bytes();
            let begins = |i: usize| (bytes[i] as i8) >= -0x40;
            let (mut byte, mut characters) = (0, 0u32);
            for (_, size) in &tokens {
                let inside = u32::from(!begins(byte));
                let new = (byte..byte + size).filter(|i| begins(*i)).count() as u32;
                spans.push((characters - inside, characters + new));
                characters += new;
                byte += size;
            }
        }
        Ok(Encoded { ids, offsets: spans })
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        let mut bytes = Vec::new();
        for id in ids {
            if let Some(token) = self.token.get(id) {
                bytes.extend_from_slice(token);
            } else if let Some(token) = self.special_id.get(id) {
                if !skip_special_tokens {
                    bytes.extend_from_slice(token.as_bytes());
                }
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        let special = std::str::from_utf8(token).ok().and_then(|t| self.special.get(t));
        special.or_else(|| self.rank.get(token)).copied()
    }

    fn id_to_token(&self, id: u32) -> Option<Vec<u8>> {
        self.token.get(&id).cloned().or_else(|| self.special_id.get(&id).map(|t| t.clone().into_bytes()))
    }
}
