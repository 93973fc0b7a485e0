//! What the headers of a Parquet file's pages claim, held against the bytes that are there. The library allocates what
//! they claim before it looks at a page.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{BINARY, DEEPEST, I8, I32, I64, LIST, STRUCTURE, Shape, TRUTH, Thrift};

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
    let mut thrift = Thrift::new(&bytes);
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
        let (page, header) = header(file, at, end)?;
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
        let mut bytes = Thrift::new(page.buffer());
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

/// The header at `at`, and its bytes.
fn header(file: &mut File, at: u64, end: u64) -> Result<(Header, u64), String> {
    let mut window = WINDOW as u64;
    loop {
        let mut bytes = Vec::new();
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.by_ref().take(window.min(end - at)).read_to_end(&mut bytes));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        let mut thrift = Thrift::new(&bytes);
        if let Some(page) = thrift.page() {
            return Ok((page, thrift.at() as u64));
        }
        if window >= end - at {
            return Err(format!("there is no page's header at byte {at}"));
        }
        window *= 16;
    }
}

const STATISTICS: Shape = Shape(&[
    (1, BINARY, 0, None),
    (2, BINARY, 0, None),
    (3, I64, 0, None),
    (4, I64, 0, None),
    (5, BINARY, 0, None),
    (6, BINARY, 0, None),
    (7, TRUTH, 0, None),
    (8, TRUTH, 0, None),
]);
const PLAIN: u8 = 1;
const COMPRESSED: u8 = 2;
const VALUES_OF_PAGE: u8 = 3;
const ENCODING: u8 = 4;
const ENTRIES: u8 = 5;
/// `PageHeader` of <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.
const PAGE: Shape = Shape(&[
    (1, I32, 0, None),
    (2, I32, PLAIN, None),
    (3, I32, COMPRESSED, None),
    (4, I32, 0, None),
    (
        5,
        STRUCTURE,
        0,
        Some(&Shape(&[
            (1, I32, VALUES_OF_PAGE, None),
            (2, I32, ENCODING, None),
            (3, I32, 0, None),
            (4, I32, 0, None),
            (5, STRUCTURE, 0, Some(&STATISTICS)),
        ])),
    ),
    (6, STRUCTURE, 0, None),
    (7, STRUCTURE, 0, Some(&Shape(&[(1, I32, ENTRIES, None), (2, I32, 0, None), (3, TRUTH, 0, None)]))),
    (
        8,
        STRUCTURE,
        0,
        Some(&Shape(&[
            (1, I32, VALUES_OF_PAGE, None),
            (2, I32, 0, None),
            (3, I32, 0, None),
            (4, I32, ENCODING, None),
            (5, I32, 0, None),
            (6, I32, 0, None),
            (7, TRUTH, 0, None),
            (8, STRUCTURE, 0, Some(&STATISTICS)),
        ])),
    ),
]);

const CHILDREN: u8 = 1;
const UNIT: Shape = Shape(&[(1, STRUCTURE, 0, None), (2, STRUCTURE, 0, None), (3, STRUCTURE, 0, None)]);
const TIME: Shape = Shape(&[(1, TRUTH, 0, None), (2, STRUCTURE, 0, Some(&UNIT))]);
const LOGICAL: Shape = Shape(&[
    (5, STRUCTURE, 0, Some(&Shape(&[(1, I32, 0, None), (2, I32, 0, None)]))),
    (7, STRUCTURE, 0, Some(&TIME)),
    (8, STRUCTURE, 0, Some(&TIME)),
    (10, STRUCTURE, 0, Some(&Shape(&[(1, I8, 0, None), (2, TRUTH, 0, None)]))),
    (16, STRUCTURE, 0, Some(&Shape(&[(1, I8, 0, None)]))),
    (17, STRUCTURE, 0, Some(&Shape(&[(1, BINARY, 0, None)]))),
    (18, STRUCTURE, 0, Some(&Shape(&[(1, BINARY, 0, None), (2, I32, 0, None)]))),
]);
/// `SchemaElement` there.
const ELEMENT: Shape = Shape(&[
    (1, I32, 0, None),
    (2, I32, 0, None),
    (3, I32, 0, None),
    (4, BINARY, 0, None),
    (5, I32, CHILDREN, None),
    (6, I32, 0, None),
    (7, I32, 0, None),
    (8, I32, 0, None),
    (9, I32, 0, None),
    (10, STRUCTURE, 0, Some(&LOGICAL)),
]);

impl Thrift<'_> {
    fn page(&mut self) -> Option<Header> {
        let mut page = Header::default();
        self.structure(&PAGE, &mut |mark, number| match mark {
            PLAIN => page.plain = number,
            COMPRESSED => page.compressed = number,
            VALUES_OF_PAGE => page.values = number,
            ENCODING => page.encoding = number,
            _ => page.entries = number,
        })?;
        Some(page)
    }

    /// `FileMetaData`: a version, the schema, and what the library holds against the bytes by itself.
    fn description(&mut self) -> Option<()> {
        let (mut id, mut seen) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            seen += 1;
            match (id, kind) {
                // as every writer has it: what comes before the schema is read in one way alone
                (1, I32) if seen == 1 => self.number().map(|_| ())?,
                (2, LIST) if seen == 2 => self.schema()?,
                (3.., _) if seen > 2 => self.skip(kind, DEEPEST)?,
                _ => return None,
            }
        }
        Some(())
    }

    /// Elements, each before its children: none has more of them than there are elements, and they are not nested so deep
    /// that the library's stack ends.
    fn schema(&mut self) -> Option<()> {
        let (kind, count) = self.list()?;
        // children that are still to come, of each element that has some
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..count {
            let mut children = 0;
            self.structure(if kind == STRUCTURE { &ELEMENT } else { return None }, &mut |_, number| {
                children = number;
            })?;
            let children = u64::try_from(children).ok().filter(|children| *children <= count)?;
            while open.pop_if(|left| *left == 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            if open.len() > DEEPEST {
                return None;
            }
        }
        Some(())
    }

    /// Goes over the levels of `count` values, of up to `most`.
    fn levels(&mut self, most: i16, encoding: Encoding, count: u64) -> Option<()> {
        let bits = u64::from(16 - (most.max(0) as u16).leading_zeros());
        match encoding {
            _ if bits == 0 => Some(()),
            Encoding::RLE => {
                let length = self.rest().first_chunk::<4>()?;
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
            let widths = self.rest();
            self.forward(small_blocks)?;
            for width in &widths[..small_blocks as usize] {
                if left == 0 {
                    break;
                }
                self.forward(values.checked_mul(u64::from(*width))? / 8)?;
                left = left.saturating_sub(values);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::check_footer;

    /// A file whose schema is a group with `children`, `depth` more of one child each, and a text.
    fn written(children: u8, depth: usize) -> std::fs::File {
        let group = |children: u8| [0x48, 1, b'g', 0x15, 2 * children, 0];
        let mut elements = group(children).to_vec();
        (0..depth).for_each(|_| elements.extend(group(1)));
        elements.extend([0x15, 12, 0x38, 1, b't', 0]);
        let count = depth + 2;
        let mut footer = vec![0x15, 2, 0x19, 0xfc, count as u8 | 128, (count >> 7) as u8];
        footer.extend(elements);
        footer.push(0);
        let mut file = tempfile::tempfile().unwrap();
        let length = (footer.len() as u32).to_le_bytes();
        file.write_all(&[b"PAR1", &footer[..], &length, b"PAR1"].concat()).unwrap();
        file
    }

    #[test]
    fn a_schema_is_no_deeper_and_no_wider_than_the_library_can_bear() {
        assert_eq!(check_footer(&mut written(1, 20)), Ok(()));
        // more groups within one another end the library's stack, more children than elements its memory
        check_footer(&mut written(1, 5000)).unwrap_err();
        check_footer(&mut written(60, 20)).unwrap_err();
    }
}
