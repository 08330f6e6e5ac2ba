//! JSON into values of a template. Python's words NaN and Infinity are numbers, integers keep every digit that fits 128
//! bits, and the order of keys stays.

use minijinja::Value;

const DEEPEST: usize = 256;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// The value that a whole text holds.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at != text.len() {
        return Err(reader.error("text behind the value"));
    }
    Ok(value)
}

impl Reader<'_> {
    fn error(&self, what: &str) -> String {
        format!("JSON: {what} at byte {}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEEPEST {
            return Err(self.error("nested too deep"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::from),
            _ => {
                for (word, value) in [
                    ("null", Value::from(())),
                    ("true", Value::from(true)),
                    ("false", Value::from(false)),
                    ("NaN", Value::from(f64::NAN)),
                    ("Infinity", Value::from(f64::INFINITY)),
                    ("-Infinity", Value::from(f64::NEG_INFINITY)),
                ] {
                    if self.take(word) {
                        return Ok(value);
                    }
                }
                self.number()
            }
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let begin = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = &self.text[begin..self.at];
        if text.is_empty() {
            return Err(self.error("no value"));
        }
        if !text.contains(['.', 'e', 'E']) {
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Value::from(number));
            }
            return match text.parse::<i128>() {
                Ok(number) => Ok(Value::from(number)),
                Err(_) => Err(self.error("an integer of more than 128 bits, or none")),
            };
        }
        text.parse::<f64>().map(Value::from).map_err(|_| self.error("no number"))
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).ok_or_else(|| self.error("a cut escape"))?;
        let code = u32::from_str_radix(digits, 16).map_err(|_| self.error("no escape"))?;
        self.at += 4;
        Ok(code)
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(['"', '\\']).ok_or_else(|| self.error("a string without end"))?;
            out.push_str(&rest[..plain]);
            self.at += plain + 1;
            if rest.as_bytes()[plain] == b'"' {
                return Ok(out);
            }
            let escape = self.peek().ok_or_else(|| self.error("a cut escape"))?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' => out.push(escape as char),
                b'b' => out.push('\u{8}'),
                b'f' => out.push('\u{c}'),
                b'n' => out.push('\n'),
                b'r' => out.push('\r'),
                b't' => out.push('\t'),
                b'u' => {
                    let mut code = self.hex()?;
                    if (0xD800..0xDC00).contains(&code) && self.take("\\u") {
                        let low = self.hex()?;
                        if !(0xDC00..0xE000).contains(&low) {
                            return Err(self.error("half a surrogate pair"));
                        }
                        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    }
                    out.push(char::from_u32(code).ok_or_else(|| self.error("half a surrogate pair"))?);
                }
                _ => return Err(self.error("no escape")),
            }
        }
    }

    /// After an item: true when another follows.
    fn more(&mut self, close: u8) -> Result<bool, String> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.error("no comma and no end")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::from(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if !self.more(b']')? {
                return Ok(Value::from(items));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut members: Vec<(Value, Value)> = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(members.into_iter().collect());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.error("no key"));
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.error("no colon"));
            }
            self.at += 1;
            members.push((Value::from(key), self.value(depth + 1)?));
            if !self.more(b'}')? {
                return Ok(members.into_iter().collect());
            }
        }
    }
}
