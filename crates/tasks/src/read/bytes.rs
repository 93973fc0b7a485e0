//! A file's bytes and its text.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::Reader;
use crate::TaskError;

/// A gzip file of a megabyte can hold a gigabyte; above this one is refused.
pub(super) const MOST_UNPACKED: u64 = 8 << 30;

pub(super) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

impl Reader<'_> {
    fn bytes(&self) -> Result<Vec<u8>, TaskError> {
        let bytes = std::fs::read(self.path)
            .map_err(|error| self.error(format!("cannot be read: {error}; check the path")))?;
        if !is_gzip(self.path) {
            return Ok(bytes);
        }
        let mut unpacked = Vec::new();
        let mut decoder = MultiGzDecoder::new(&bytes[..]).take(MOST_UNPACKED + 1);
        decoder
            .read_to_end(&mut unpacked)
            .map_err(|error| self.error(format!("is no gzip file that can be read: {error}")))?;
        match unpacked.len() as u64 > MOST_UNPACKED {
            true => Err(self.error("holds more than 8 GiB; unpack the file and give a part of it")),
            false => Ok(unpacked),
        }
    }

    /// The file's text without the byte order mark that some programs put before it.
    pub(super) fn text(&self) -> Result<String, TaskError> {
        let bytes = self.bytes()?;
        if bytes.starts_with(b"\x1f\x8b") {
            return Err(self.error("is a gzip file; let its name end in .gz"));
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(self.error("is not UTF-8 but UTF-16, as its first bytes say; convert the file"));
        }
        let mut text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            self.error(format!(
                "line {line}: is not UTF-8 at byte {at} (Latin-1 or Windows-1252?); convert the file"
            ))
        })?;
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Ok(text)
    }
}
