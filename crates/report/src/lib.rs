//! Tables and plots, drawn from records alone: the same records give the same bytes.

mod compare;
mod costs;
mod grid;
mod kernels;
#[cfg(test)]
mod made;
mod marks;
mod plot;
mod stats;
mod table;

use std::path::{Path, PathBuf};

use peftlab_record::{Record, RecordError, write_atomic};

pub use compare::{compare_devices, compare_runs, device_table};
use grid::Grid;

/// What was drawn.
#[derive(Clone, Debug)]
pub struct Report {
    /// The table as a terminal shows it.
    pub text: String,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

/// Why no report could be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is nothing to draw.
    #[error("{}: holds no records (runs/*.json); make some with `bench run FILE --out {}`", .0.display(), .0.display())]
    Empty(PathBuf),
    /// A record, or writing.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Drawing failed.
    #[error("{}: cannot be drawn: {message}", path.display())]
    Plot {
        /// The picture.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// Reads the records of the results folder `dir`, and writes `table.md`, `table.csv`, `table.tex` and `plots/`
/// into it.
///
/// # Errors
/// Where there are no records, one cannot be read, or the folder cannot be written.
pub fn report(dir: &Path) -> Result<Report, ReportError> {
    let records = Record::read_all(dir)?;
    if records.is_empty() {
        return Err(ReportError::Empty(dir.to_owned()));
    }
    let profiles = kernels::tables(records.iter().map(|(_, record)| record));
    let grid = Grid::new(records)?;
    let mut files = Vec::new();
    for (name, text) in [
        ("table.md", table::markdown(&grid)),
        ("table.csv", table::csv(&grid)),
        ("table.tex", table::latex(&grid)),
    ] {
        let path = dir.join(name);
        write_atomic(&path, text.as_bytes())?;
        files.push(path);
    }
    files.extend(plot::all(&grid, &dir.join("plots"))?);
    Ok(Report { text: table::terminal(&grid) + &profiles, files })
}
