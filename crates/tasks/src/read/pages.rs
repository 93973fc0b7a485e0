//! What the headers of a Parquet file's pages claim, held against the bytes that are there. The library allocates what
//! they claim before it looks at a page.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;

/// Bytes that a header is looked for in at first; statistics may make it longer.
const WINDOW: usize = 1 << 12;

/// Values that any file may have, and for each of its bytes: as many as the same value takes that stands again and
/// again.
const VALUES: u64 = 1 << 17;
const VALUES_FOR_A_BYTE: u64 = 64;

/// The most values that a column of a file of so many bytes may have.
pub(super) fn most_values(bytes: u64) -> u64 {
    bytes.saturating_mul(VALUES_FOR_A_BYTE).saturating_add(VALUES)
}

/// Holds the file's own description against its bytes: the library makes room for as many columns as one says it has.
///
/// # Errors
/// Where it is no description.
pub(super) fn check_footer(file: &mut File) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let size = file.metadata().map_err(unreadable)?.len();
    let mut tail = [0; 8];
    let Some(start) = size.checked_sub(8) else { return Err(format!("has {size} bytes")) };
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut tail)).map_err(unreadable)?;
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let Some(begin) = start.checked_sub(length) else {
        return Err(format!("promises a description of {length} bytes, and has {size}"));
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(begin))
        .and_then(|_| file.by_ref().take(length).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    let mut thrift = Thrift { bytes: &bytes, at: 0 };
    thrift.description().ok_or_else(|| "its description is damaged".to_owned())
}

/// Holds every page of a column chunk against the file. Gives whether a page's texts are written by their lengths, for
/// [`lengths`] to check.
///
/// # Errors
/// Where a page promises more than its bytes can hold.
pub(super) fn check(file: &mut File, column: &ColumnChunkMetaData) -> Result<bool, String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let (start, length) = column.byte_range();
    let Some(end) = start.checked_add(length).filter(|end| *end <= size) else {
        return Err(format!("its {length} bytes begin at byte {start}, and the file has {size}"));
    };
    let (mut at, mut values, mut by_lengths) = (start, 0_u64, false);
    while at < end {
        // the library reads the same bytes, and says what is wrong with a header that is none
        let Some((page, header)) = header(file, at, end)? else { break };
        let left = end - at - header;
        let compressed = u64::try_from(page.compressed).ok().filter(|compressed| *compressed <= left);
        let (Some(compressed), Ok(plain)) = (compressed, u64::try_from(page.plain)) else {
            return Err(format!(
                "a page at byte {at} promises {} bytes ({} unpacked), and there are {left}",
                page.compressed, page.plain
            ));
        };
        let most = most_unpacked(column.compression(), compressed);
        if plain > most {
            return Err(format!(
                "a page at byte {at} promises {plain} bytes, and its {compressed} can hold no more than {most}"
            ));
        }
        let claimed = page.values.max(page.entries);
        values = values.saturating_add(u64::try_from(claimed).unwrap_or(u64::MAX));
        // an entry of a dictionary takes a byte or more
        if values > most_values(size) || u64::try_from(page.entries).is_ok_and(|entries| entries > plain) {
            return Err(format!(
                "a page at byte {at} promises {claimed} values, and the file has {size} bytes"
            ));
        }
        by_lengths |= page.encoding == 6 || page.encoding == 7;
        at += header + compressed;
    }
    Ok(by_lengths)
}

/// Holds the lengths of texts in the pages of a column chunk against the number of its values: the library makes room
/// for as many as a page says.
///
/// # Errors
/// Where a page has more lengths than values, or cannot be read.
pub(super) fn lengths(pages: &mut dyn PageReader, column: &ColumnChunkMetaData) -> Result<(), String> {
    let descriptor = column.column_descr();
    while let Some(page) = pages.get_next_page().map_err(|error| error.to_string())? {
        let lists = match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            Encoding::DELTA_BYTE_ARRAY => 2,
            _ => continue,
        };
        let count = page.num_values() as u64;
        let mut bytes = Thrift { bytes: page.buffer(), at: 0 };
        let fits = match &page {
            Page::DataPage { def_level_encoding, rep_level_encoding, .. } => {
                let levels = [
                    (descriptor.max_rep_level(), rep_level_encoding),
                    (descriptor.max_def_level(), def_level_encoding),
                ];
                levels.iter().try_for_each(|(most, encoding)| bytes.levels(*most, **encoding, count))
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                bytes.forward(u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len))
            }
            Page::DictionaryPage { .. } => Some(()),
        };
        fits.and_then(|()| (0..lists).try_for_each(|_| bytes.deltas(count)))
            .ok_or_else(|| format!("a page of {count} values has lengths of other texts than it holds"))?;
    }
    Ok(())
}

/// What so many bytes can unpack to.
fn most_unpacked(codec: Compression, bytes: u64) -> u64 {
    let ratio = match codec {
        // a copy of up to 64 bytes takes two or more
        Compression::SNAPPY => 64,
        // a length grows by 255 a byte
        Compression::LZ4 | Compression::LZ4_RAW => 256,
        // RFC 1951: 258 bytes in two bits
        Compression::GZIP(_) => 1032,
        // RFC 8878: a block of 128 KiB in four bytes
        _ => 1 << 15,
    };
    bytes.saturating_mul(ratio).saturating_add(1 << 16)
}

/// What a page's header says.
#[derive(Default)]
struct Header {
    plain: i64,
    compressed: i64,
    values: i64,
    encoding: i64,
    /// Of a dictionary.
    entries: i64,
}

/// The header at `at`, and its bytes; none where there is none before `end`.
fn header(file: &mut File, at: u64, end: u64) -> Result<Option<(Header, u64)>, String> {
    let mut window = WINDOW as u64;
    loop {
        let mut bytes = Vec::new();
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.by_ref().take(window.min(end - at)).read_to_end(&mut bytes));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        let mut thrift = Thrift { bytes: &bytes, at: 0 };
        if let Some(page) = thrift.page() {
            return Ok(Some((page, thrift.at as u64)));
        }
        if window >= end - at {
            return Ok(None);
        }
        window *= 16;
    }
}

/// Thrift's compact protocol, as far as headers go
/// (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Structures and lists within one another.
const DEEPEST: usize = 32;
/// A structure's type.
const STRUCTURE: u8 = 12;

impl Thrift<'_> {
    /// `FileMetaData` of <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.
    fn description(&mut self) -> Option<()> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 9) => self.schema()?,
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some(())
    }

    /// Elements none of which has more children than there are elements.
    fn schema(&mut self) -> Option<()> {
        let (kind, count) = self.list()?;
        for _ in 0..count {
            if kind != STRUCTURE {
                return None;
            }
            let (_, children) = self.numbers(5)?;
            u64::try_from(children).ok().filter(|children| *children <= count)?;
        }
        Some(())
    }

    /// The type of a list's elements, and their number.
    fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
        Some((byte & 15, count))
    }

    fn page(&mut self) -> Option<Header> {
        let mut page = Header::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 5) => page.plain = self.number()?,
                (3, 5) => page.compressed = self.number()?,
                (5, 12) => (page.values, page.encoding) = self.numbers(2)?,
                (8, 12) => (page.values, page.encoding) = self.numbers(4)?,
                (7, 12) => (page.entries, _) = self.numbers(2)?,
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some(page)
    }

    /// Of a structure the first field, the count of values in every kind of page, and the field `second`, whole numbers
    /// both.
    fn numbers(&mut self, second: i64) -> Option<(i64, i64)> {
        let mut id = 0;
        let mut found = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, 5) => found.0 = self.number()?,
                (id, 5) if id == second => found.1 = self.number()?,
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some(found)
    }

    /// Goes over the levels of `count` values, of up to `most`.
    fn levels(&mut self, most: i16, encoding: Encoding, count: u64) -> Option<()> {
        let bits = u64::from(16 - (most.max(0) as u16).leading_zeros());
        match encoding {
            _ if bits == 0 => Some(()),
            Encoding::RLE => {
                let length = self.bytes.get(self.at..)?.first_chunk::<4>()?;
                self.forward(4 + u64::from(u32::from_le_bytes(*length)))
            }
            _ => self.forward(count.checked_mul(bits)?.div_ceil(8)),
        }
    }

    /// Goes over a list of up to `most` differences: blocks of small blocks of bits.
    fn deltas(&mut self, most: u64) -> Option<()> {
        let (block, small_blocks, count) = (self.unsigned()?, self.unsigned()?, self.unsigned()?);
        self.unsigned()?;
        let values = block.checked_div(small_blocks)?;
        if count > most || values == 0 || values % 32 != 0 {
            return None;
        }
        let mut left = count.saturating_sub(1);
        while left > 0 {
            self.unsigned()?;
            let widths = self.at;
            self.forward(small_blocks)?;
            for small in 0..small_blocks as usize {
                if left == 0 {
                    break;
                }
                self.forward(values.checked_mul(u64::from(*self.bytes.get(widths + small)?))? / 8)?;
                left = left.saturating_sub(values);
            }
        }
        Some(())
    }

    /// The type of the next field, whose number follows that of the one before; none at the end of a structure.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
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

    fn unsigned(&mut self) -> Option<u64> {
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

    fn number(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn forward(&mut self, bytes: u64) -> Option<()> {
        self.at = usize::try_from(bytes).ok()?.checked_add(self.at).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
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
