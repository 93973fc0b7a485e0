//! Files with something wrong in them: bytes, numbers, words, and parts of trees put in the place of others.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

/// Numbers that look random and are the same in each run (splitmix64, Steele et al. 2014).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which may be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What a mutant may have in bytes.
const LONGEST: usize = 1 << 20;

/// Lengths and counts that no file has.
const LENGTHS: [u64; 12] =
    [0, 1, 2, 255, 65_535, 1 << 24, (1 << 31) - 1, 1 << 32, 1 << 53, 1 << 60, u64::MAX / 8, u64::MAX];

/// Numbers as texts have them.
const NUMBERS: [&str; 34] = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "7",
    "16",
    "63",
    "64",
    "127",
    "255",
    "256",
    "1000",
    "4096",
    "65536",
    "1048576",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "-0.0",
    "1.5",
    "1e-45",
    "1e-320",
    "1e30",
    "1e308",
    "1e999",
    "nan",
    "NaN",
];

const WORDS: [&str; 30] = [
    "",
    " ",
    "\t",
    "\n",
    "\"",
    "'",
    "'''",
    "\\",
    "\\u0000",
    "\u{feff}",
    "\u{1F600}",
    "[",
    "]",
    "{",
    "}",
    "{{",
    "=",
    "[[",
    ",",
    ":",
    "null",
    "true",
    "false",
    "all-linear",
    "(a+)+$",
    ".*",
    "../../etc/x",
    "input",
    "[SEP]",
    "\u{301}",
];

/// `bytes` of the file `name`, changed; `donor` is another file of its kind.
pub(crate) fn mutant(name: &str, bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    if let Some(inner) = name.strip_suffix(".gz") {
        return match unpacked(bytes) {
            Some(plain) if !numbers.once_in(3) => {
                packed(&mutant(inner, &plain, &unpacked(donor).unwrap_or_default(), numbers))
            }
            _ => changed_bytes(bytes, donor, numbers),
        };
    }
    let mut changed = match name.rsplit('.').next() {
        Some("json") => json(bytes, donor, numbers),
        Some("toml" | "csv" | "tsv" | "jsonl" | "ndjson" | "txt") => text(bytes, donor, numbers),
        Some("safetensors") => safetensors(bytes, donor, numbers),
        Some("parquet") => parquet(bytes, donor, numbers),
        _ => changed_bytes(bytes, donor, numbers),
    };
    changed.truncate(LONGEST);
    changed
}

fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes).take(LONGEST as u64).read_to_end(&mut plain).ok()?;
    Some(plain)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// One to four changes of single bytes, lengths, and pieces.
fn changed_bytes(bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.below(4) {
        // headers are at the beginning
        let end = if numbers.once_in(3) { bytes.len().min(64) } else { bytes.len() };
        let at = numbers.below(end);
        change_at(&mut bytes, at, donor, numbers);
    }
    bytes
}

fn change_at(bytes: &mut Vec<u8>, at: usize, donor: &[u8], numbers: &mut Numbers) {
    if bytes.is_empty() {
        bytes.extend(donor.iter().take(16));
        return;
    }
    match numbers.below(9) {
        0 | 1 => bytes[at] ^= 1 << numbers.below(8),
        2 => bytes[at] = numbers.below(256) as u8,
        3 | 4 => {
            let length = numbers.pick(&LENGTHS).to_le_bytes();
            let width = *numbers.pick(&[1, 2, 4, 8]);
            bytes[at..].iter_mut().zip(&length[..width]).for_each(|(byte, new)| *byte = *new);
        }
        5 => {
            // as Thrift and protocol buffers write numbers
            let value = *numbers.pick(&LENGTHS);
            let old = bytes[at..].iter().position(|byte| *byte < 128).map_or(0, |last| last + 1);
            bytes.splice(at..at + old, varint(value.wrapping_mul(2)));
        }
        6 => bytes.truncate(at.max(1)),
        7 => {
            let count = numbers.below(64).min(bytes.len() - at);
            bytes.drain(at..at + count);
        }
        _ => {
            let from = if numbers.once_in(2) { donor } else { &bytes.clone()[..] };
            let start = numbers.below(from.len());
            let piece: Vec<u8> = from[start..].iter().take(numbers.below(64)).copied().collect();
            bytes.splice(at..at, piece);
        }
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The header and its length, or any bytes.
fn safetensors(bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let parts = |bytes: &[u8]| {
        let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<8>()?)).ok()?;
        let end = length.checked_add(8).filter(|end| *end <= bytes.len())?;
        Some((bytes[8..end].to_vec(), bytes[end..].to_vec()))
    };
    let (Some((header, data)), false) = (parts(bytes), numbers.once_in(3)) else {
        return changed_bytes(bytes, donor, numbers);
    };
    let other = parts(donor).map(|(header, _)| header).unwrap_or_default();
    let header = json(&header, &other, numbers);
    let length = if numbers.once_in(8) { *numbers.pick(&LENGTHS) } else { header.len() as u64 };
    [&length.to_le_bytes()[..], &header, &data].concat()
}

/// The footer, whose length is mended, or any bytes.
fn parquet(bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let Some(tail) = bytes.last_chunk::<8>().filter(|_| !numbers.once_in(3)) else {
        return changed_bytes(bytes, donor, numbers);
    };
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    let Some(start) = bytes.len().checked_sub(length + 8) else {
        return changed_bytes(bytes, donor, numbers);
    };
    let mut footer = bytes[start..bytes.len() - 8].to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(footer.len());
        change_at(&mut footer, at, donor, numbers);
    }
    let mut data = bytes[..start].to_vec();
    if numbers.once_in(4) {
        let at = numbers.below(data.len());
        change_at(&mut data, at, donor, numbers);
    }
    let length = (footer.len() as u32).to_le_bytes();
    [&data[..], &footer, &length, &tail[4..]].concat()
}

/// A part of the tree, or of the text where it is none.
fn json(bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let (Ok(mut tree), false) = (serde_json::from_slice::<Value>(bytes), numbers.once_in(4)) else {
        return text(bytes, donor, numbers);
    };
    let donor_tree = serde_json::from_slice(donor).unwrap_or(Value::Null);
    for _ in 0..=numbers.below(3) {
        let other = match numbers.once_in(2) {
            true => node(&donor_tree, numbers).clone(),
            false => node(&tree, numbers).clone(),
        };
        let at = numbers.below(count(&tree));
        change_node(nth(&mut tree, at), other, numbers);
    }
    let mut bytes = tree.to_string().into_bytes();
    if numbers.once_in(8) {
        bytes = text(&bytes, donor, numbers);
    }
    bytes
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

/// The node `at`, counted from the root in depth.
fn nth(tree: &mut Value, mut at: usize) -> &mut Value {
    let mut current = tree;
    while at > 0 {
        at -= 1;
        let children: Vec<&mut Value> = match current {
            Value::Array(values) => values.iter_mut().collect(),
            Value::Object(values) => values.values_mut().collect(),
            leaf => return leaf,
        };
        let mut next = None;
        for child in children {
            let size = count(child);
            if at < size {
                next = Some(child);
                break;
            }
            at -= size;
        }
        let Some(child) = next else { unreachable!("a node within the tree") };
        current = child;
    }
    current
}

fn node<'a>(tree: &'a Value, numbers: &mut Numbers) -> &'a Value {
    let mut current = tree;
    loop {
        let children: Vec<&Value> = match current {
            Value::Array(values) => values.iter().collect(),
            Value::Object(values) => values.values().collect(),
            _ => return current,
        };
        if children.is_empty() || numbers.once_in(4) {
            return current;
        }
        current = children[numbers.below(children.len())];
    }
}

fn number(numbers: &mut Numbers) -> Value {
    serde_json::from_str(numbers.pick::<&str>(&NUMBERS)).unwrap_or(Value::Null)
}

fn change_node(at: &mut Value, other: Value, numbers: &mut Numbers) {
    if numbers.once_in(6) {
        *at = match numbers.below(6) {
            0 => Value::Null,
            1 => Value::Array(Vec::new()),
            2 => Value::Object(serde_json::Map::new()),
            3 => number(numbers),
            4 => (0..*numbers.pick(&[1, 100, 126, 127, 500]))
                .fold(at.take(), |inner, _| Value::from(vec![inner])),
            _ => other,
        };
        return;
    }
    match at {
        Value::Null => *at = other,
        Value::Bool(on) => *on = !*on,
        Value::Number(_) => *at = number(numbers),
        Value::String(text) => match numbers.below(4) {
            0 => *text = (*numbers.pick(&WORDS)).to_owned(),
            1 => text.push_str(numbers.pick::<&str>(&WORDS)),
            2 => *text = text.repeat(*numbers.pick(&[0, 2, 1000])),
            _ => *at = other,
        },
        Value::Array(values) => {
            let place = numbers.below(values.len());
            match numbers.below(5) {
                0 if !values.is_empty() => drop(values.remove(place)),
                1 if !values.is_empty() => values.insert(place, values[place].clone()),
                2 if !values.is_empty() => {
                    let with = numbers.below(values.len());
                    values.swap(place, with);
                }
                3 => values.extend(vec![other; *numbers.pick(&[1, 3, 300])]),
                _ => values.push(other),
            }
        }
        Value::Object(values) => {
            let keys: Vec<String> = values.keys().cloned().collect();
            let key = if keys.is_empty() { String::new() } else { numbers.pick(&keys).clone() };
            match (numbers.below(5), other) {
                (0 | 1, _) => drop(values.remove(&key)),
                (2, Value::Object(theirs)) => values.extend(theirs),
                (3, other) => drop(values.insert(key, other)),
                (_, other) => drop(values.insert(format!("{key}_"), other)),
            }
        }
    }
}

/// Words, numbers, signs and lines of a text.
fn text(bytes: &[u8], donor: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let Ok(whole) = std::str::from_utf8(bytes) else { return changed_bytes(bytes, donor, numbers) };
    if numbers.once_in(10) {
        return changed_bytes(bytes, donor, numbers);
    }
    let donor = String::from_utf8_lossy(donor).into_owned();
    let mut whole = whole.to_owned();
    for _ in 0..=numbers.below(3) {
        whole = match numbers.once_in(4) {
            true => changed_lines(&whole, &donor, numbers),
            false => changed_tokens(&whole, &donor, numbers),
        };
    }
    whole.into_bytes()
}

fn changed_lines(whole: &str, donor: &str, numbers: &mut Numbers) -> String {
    let mut lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let others: Vec<&str> = donor.split_inclusive('\n').collect();
    if lines.is_empty() {
        return donor.to_owned();
    }
    let (at, with) = (numbers.below(lines.len()), numbers.below(lines.len()));
    match numbers.below(6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(with, lines[at]),
        2 => lines.swap(at, with),
        3 => lines.truncate(at + 1),
        4 if !others.is_empty() => {
            let from = numbers.below(others.len());
            let taken = others[from..].iter().take(1 + numbers.below(12)).copied();
            lines.splice(at..at, taken);
        }
        _ => {
            let line = lines[at];
            lines.splice(at..at, std::iter::repeat_n(line, *numbers.pick(&[2, 200])));
        }
    }
    lines.concat()
}

/// Numbers, words and single signs.
fn tokens(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        '0'..='9' | '.' => 0,
        c if c.is_alphabetic() || c == '_' || c == '-' => 1,
        c if c.is_whitespace() => 2,
        _ => 3,
    };
    let mut found = Vec::new();
    let mut start = 0;
    let mut before = None;
    for (at, c) in text.char_indices() {
        if before.is_some_and(|before| before != kind(c) || before == 3) {
            found.push(&text[start..at]);
            start = at;
        }
        before = Some(kind(c));
    }
    found.push(&text[start..]);
    found
}

fn changed_tokens(whole: &str, donor: &str, numbers: &mut Numbers) -> String {
    let mut words = tokens(whole);
    let others = tokens(donor);
    let (at, with) = (numbers.below(words.len()), numbers.below(words.len()));
    let numeric: Vec<usize> =
        (0..words.len()).filter(|i| words[*i].starts_with(|c: char| c.is_ascii_digit())).collect();
    match numbers.below(8) {
        0..=2 if !numeric.is_empty() => words[*numbers.pick(&numeric)] = numbers.pick::<&str>(&NUMBERS),
        3 => drop(words.remove(at)),
        4 => words.insert(with, words[at]),
        5 => words.swap(at, with),
        6 => words[at] = numbers.pick::<&str>(&WORDS),
        _ => {
            let from = numbers.below(others.len());
            let taken = others[from..].iter().take(1 + numbers.below(6)).copied();
            words.splice(at..at + usize::from(numbers.once_in(2)), taken);
        }
    }
    words.concat()
}
