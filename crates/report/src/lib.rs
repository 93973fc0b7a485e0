//! Tables and plots, drawn from records alone: the same records give the same bytes.

mod compare;
mod format;
mod grid;
mod kernels;
#[cfg(test)]
mod made;
mod options;
mod page;
mod plot;
mod stats;
mod table;
mod text;

use std::path::{Path, PathBuf};

use peftlab_record::{Manifest, Record, RecordError, write_atomic};

pub use compare::{compare_devices, compare_runs, device_table};
use grid::Grid;
use options::Columns;
pub use options::Options;

/// What was drawn.
#[derive(Clone, Debug)]
pub struct Report {
    /// The table as a terminal shows it.
    pub text: String,
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// What could not be drawn beside the table.
    pub warnings: Vec<String>,
}

/// Why no report could be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is nothing to draw.
    #[error("{}: holds no records (runs/*.json); make some with `bench run FILE --out {}`", .0.display(), .0.display())]
    Empty(PathBuf),
    /// An option names what is not there.
    #[error("--{option}: there is no `{value}`; there are: {known}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it can be given.
        known: String,
    },
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

/// Reads the records of the results folder `dir`, and writes `table.md`, `table.csv`, `table.tex`, `report.html`
/// and `plots/` into it. A plot that cannot be drawn is a warning: the tables are there.
///
/// # Errors
/// Where there are no records, one cannot be read, an option names what is not there, or a table cannot be written.
pub fn report(dir: &Path, options: &Options) -> Result<Report, ReportError> {
    let records = Record::read_all(dir)?;
    if records.is_empty() {
        return Err(ReportError::Empty(dir.to_owned()));
    }
    let mut grid = Grid::new(Manifest::read(dir)?.as_ref(), records)?;
    let columns = Columns::new(options, &grid)?;
    options.arrange(&mut grid)?;
    let mut files = Vec::new();
    for (name, text) in [
        ("table.md", table::markdown(&grid, &columns)),
        ("table.csv", table::csv(&grid)),
        ("table.tex", table::latex(&grid, &columns)),
        ("report.html", page::page(&grid, &columns)?),
    ] {
        let path = dir.join(name);
        write_atomic(&path, text.as_bytes())?;
        files.push(path);
    }
    let mut warnings = Vec::new();
    match plot::all(&grid, &dir.join("plots")) {
        Ok(plots) => files.extend(plots),
        Err(error) => warnings.push(error.to_string()),
    }
    let profiles = kernels::tables(grid.records.iter().map(|(_, record)| record));
    let text = table::terminal(&grid, &columns, options.width) + &profiles;
    Ok(Report { text, files, warnings })
}
