//! The header of a GGUF file. What it claims is checked against the file before anything is allocated for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{CheckpointError, map};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Any integer.
    Integer(i64),
    /// Any float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// A list of integers or of truth values.
    Integers(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f64>),
    /// A list of texts.
    Strings(Vec<String>),
}

/// A tensor as the header has it.
pub(super) struct RawTensor {
    pub name: String,
    /// In the Hub's order, the fastest dimension last.
    pub shape: Vec<usize>,
    /// Number of the element type.
    pub kind: u32,
    /// From the start of the data.
    pub offset: u64,
}

/// A file whose header was read.
pub(super) struct GgufFile {
    pub path: PathBuf,
    pub bytes: Mmap,
    pub metadata: BTreeMap<String, GgufValue>,
    pub tensors: Vec<RawTensor>,
    /// Where the data start.
    pub data: usize,
    /// What offsets are multiples of.
    pub alignment: usize,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = map(path)?;
        let mut reader = Reader { path, bytes: &bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err(reader.refuse("is no GGUF file: it does not begin with `GGUF`"));
        }
        let version = reader.u32()?;
        match version {
            2 | 3 => {}
            _ if (2..=3).contains(&version.swap_bytes()) => {
                return Err(reader.refuse("is a big-endian GGUF file; only little-endian ones can be read"));
            }
            _ => {
                return Err(reader.refuse(format!("is GGUF version {version}; versions 2 and 3 can be read")));
            }
        }
        let (tensor_count, metadata_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.refuse(format!("the key `{key}` stands twice in the metadata")));
            }
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(reader.tensor()?);
        }
        let alignment = alignment(&metadata).map_err(|message| reader.refuse(message))?;
        let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        Ok(Self { path: path.to_owned(), bytes, metadata, tensors, data, alignment })
    }
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<usize, String> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(GgufValue::Integer(n)) if usize::try_from(*n).is_ok_and(usize::is_power_of_two) => {
            Ok(*n as usize)
        }
        Some(other) => Err(format!("`general.alignment` is {other:?}, no power of two")),
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn refuse(&self, message: impl Into<String>) -> CheckpointError {
        CheckpointError::new(self.path, message)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let length = self.bytes.len();
            self.refuse(format!(
                "the header goes on beyond the file's {length} bytes: truncated; get the file again"
            ))
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn size(&mut self) -> Result<usize, CheckpointError> {
        Ok(usize::try_from(self.u64()?).unwrap_or(usize::MAX))
    }

    fn string(&mut self) -> Result<String, CheckpointError> {
        let length = self.size()?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| self.refuse("the header has a text that is not UTF-8"))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<GgufValue, CheckpointError> {
        match kind {
            6 => Ok(GgufValue::Float(f64::from(f32::from_le_bytes(self.array()?)))),
            12 => Ok(GgufValue::Float(f64::from_le_bytes(self.array()?))),
            7 => Ok(GgufValue::Bool(self.array::<1>()?[0] != 0)),
            8 => Ok(GgufValue::String(self.string()?)),
            9 => self.list(key),
            _ => Ok(GgufValue::Integer(self.integer(key, kind)?)),
        }
    }

    fn integer(&mut self, key: &str, kind: u32) -> Result<i64, CheckpointError> {
        let read = match kind {
            0 => i64::from(self.array::<1>()?[0]),
            1 => i64::from(i8::from_le_bytes(self.array()?)),
            2 => i64::from(u16::from_le_bytes(self.array()?)),
            3 => i64::from(i16::from_le_bytes(self.array()?)),
            4 => i64::from(self.u32()?),
            5 => i64::from(i32::from_le_bytes(self.array()?)),
            10 => i64::try_from(self.u64()?).map_err(|_| self.refuse(format!("`{key}` is beyond 2^63")))?,
            11 => i64::from_le_bytes(self.array()?),
            _ => return Err(self.refuse(format!("`{key}` has a value of the unknown type {kind}"))),
        };
        Ok(read)
    }

    /// A list whose length the rest of the file can hold.
    fn list(&mut self, key: &str) -> Result<GgufValue, CheckpointError> {
        let (kind, count) = (self.u32()?, self.size()?);
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => {
                return Err(
                    self.refuse(format!("`{key}` is a list of lists, which GGUF readers do not take"))
                );
            }
            _ => return Err(self.refuse(format!("`{key}` is a list of the unknown type {kind}"))),
        };
        if count > (self.bytes.len() - self.at) / least {
            return Err(self.refuse(format!(
                "`{key}` says it has {count} values, more than the file holds: truncated; get the file again"
            )));
        }
        Ok(match kind {
            6 | 12 => GgufValue::Floats(self.repeat(count, |reader| match reader.value(key, kind)? {
                GgufValue::Float(value) => Ok(value),
                _ => Err(reader.refuse(format!("`{key}` is no list of floats"))),
            })?),
            8 => GgufValue::Strings(self.repeat(count, Self::string)?),
            7 => GgufValue::Integers(self.repeat(count, |reader| reader.integer(key, 0))?),
            _ => GgufValue::Integers(self.repeat(count, |reader| reader.integer(key, kind))?),
        })
    }

    fn repeat<T>(
        &mut self,
        count: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, CheckpointError>,
    ) -> Result<Vec<T>, CheckpointError> {
        (0..count).map(|_| read(self)).collect()
    }

    fn tensor(&mut self) -> Result<RawTensor, CheckpointError> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(self.refuse(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let mut shape = self.repeat(dimensions as usize, Self::size)?;
        // GGUF's first dimension is the fastest, the Hub's the slowest
        shape.reverse();
        Ok(RawTensor { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}
