//! Thrift's compact protocol, as far as the headers of Parquet files go
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).

/// Types of fields.
pub(super) const TRUTH: u8 = 1;
pub(super) const I8: u8 = 3;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCTURE: u8 = 12;

/// Structures and lists within one another.
pub(super) const DEEPEST: usize = 32;

/// Fields that a reader knows: their numbers and types, a mark for a number that is asked for (0 for none), and what a
/// structure has. A reader that goes by what it knows, and not by the types that a file says, would read another file
/// than one that goes by these; so a known field of another type is refused.
pub(super) struct Shape(pub(super) &'static [Known]);

type Known = (i64, u8, u8, Option<&'static Shape>);

/// Bytes, and how far they are read.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// A structure whose marked numbers are handed to `found`.
    pub(super) fn structure(&mut self, shape: &Shape, found: &mut dyn FnMut(u8, i64)) -> Option<()> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match shape.0.iter().find(|(known, ..)| *known == id) {
                None => self.skip(kind, DEEPEST)?,
                // a truth value is the type itself
                Some((_, TRUTH, ..)) if kind == 1 || kind == 2 => {}
                Some((_, expected, ..)) if *expected != kind => return None,
                Some((_, I32, mark, _)) => {
                    let number = i32::try_from(self.number()?).ok()?;
                    if *mark > 0 {
                        found(*mark, i64::from(number));
                    }
                }
                Some((.., Some(inner))) => self.structure(inner, found)?,
                Some(_) => self.skip(kind, DEEPEST)?,
            }
        }
        Some(())
    }

    /// The type of a list's elements, and their number.
    pub(super) fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
        Some((byte & 15, count))
    }

    /// The type of the next field, whose number follows that of the one before; none at the end of a structure.
    pub(super) fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        let kind = byte & 15;
        if kind == 0 {
            return Some(None);
        }
        *id = match byte >> 4 {
            0 => self.number()?,
            more => id.checked_add(i64::from(more))?,
        };
        Some(Some(kind))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn number(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn forward(&mut self, bytes: u64) -> Option<()> {
        self.at = usize::try_from(bytes).ok()?.checked_add(self.at).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    pub(super) fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // a truth value is the type itself
            1 | 2 => Some(()),
            3 => self.forward(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.forward(8),
            8 => self.unsigned().and_then(|length| self.forward(length)),
            9 | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.element(kind, depth))
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 15, depth)
                })
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            13 => self.forward(16),
            _ => None,
        }
    }

    /// In a list a truth value takes a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if kind == 1 || kind == 2 { self.forward(1) } else { self.skip(kind, depth) }
    }
}
