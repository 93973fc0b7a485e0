//! Drawings as files: SVG, PNG at print size and PDF.

mod pdf;
mod png;
mod svg;

use std::path::{Path, PathBuf};

use peftlab_record::write_atomic;

use super::canvas::Canvas;
use crate::ReportError;

type Encode = fn(&Canvas) -> Result<Vec<u8>, String>;

/// The kinds of file that a picture is written as.
const KINDS: [(&str, Encode); 3] = [("svg", svg::encode), ("png", png::encode), ("pdf", pdf::encode)];

/// Writes a picture as `NAME.svg`, `NAME.png` and `NAME.pdf` into the folder `dir`.
pub(super) fn write(canvas: &Canvas, name: &str, dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let one = |(kind, encode): &(&str, Encode)| {
        let path = dir.join(format!("{name}.{kind}"));
        let bytes = encode(canvas).map_err(|message| ReportError::Plot { path: path.clone(), message })?;
        write_atomic(&path, &bytes)?;
        Ok(path)
    };
    KINDS.iter().map(one).collect()
}

/// Removes the files of a picture that an earlier report drew: it would not show what the table does.
pub(super) fn remove(name: &str, dir: &Path) -> Result<(), ReportError> {
    for (kind, _) in KINDS {
        let path = dir.join(format!("{name}.{kind}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let message = format!("is of an earlier report and cannot be removed: {error}");
                return Err(ReportError::Plot { path, message });
            }
            _ => {}
        }
    }
    Ok(())
}
