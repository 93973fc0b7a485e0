//! Tables and plots, drawn from records alone: the same records give the same bytes.

mod compare;
mod format;
mod grid;
mod kernels;
#[cfg(test)]
mod made;
mod marks;
mod options;
mod page;
mod plot;
#[cfg(test)]
mod speed;
mod stats;
mod table;
mod text;

use std::path::{Path, PathBuf};

use peftlab_record::{Manifest, Record, RecordError, write_atomic};

pub use compare::{compare_devices, compare_runs, device_table};
use grid::Grid;
use options::Columns;
pub use options::Options;
pub use text::table as text_table;

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
/// and `plots/` into it. A page or plot that cannot be written is a warning: the tables are there.
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
    ] {
        let path = dir.join(name);
        write_atomic(&path, text.as_bytes())?;
        files.push(path);
    }
    let mut warnings = Vec::new();
    // neither needs the other, and most of a report's time goes into them
    let (page, plots) = std::thread::scope(|scope| {
        let page = scope.spawn(|| write_page(&grid, &columns, dir));
        let plots = plot::all(&grid, &dir.join("plots"));
        (page.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), plots)
    });
    match page {
        Ok(page) => files.push(page),
        Err(error) => warnings.push(error.to_string()),
    }
    match plots {
        Ok(plots) => files.extend(plots),
        Err(error) => warnings.push(error.to_string()),
    }
    let profiles = kernels::tables(grid.records.iter().map(|(_, record)| record));
    let text = table::terminal(&grid, &columns, options.width) + &profiles;
    Ok(Report { text, files, warnings })
}

/// Writes the page of a results folder, and gives its path.
fn write_page(grid: &Grid, columns: &Columns, dir: &Path) -> Result<PathBuf, ReportError> {
    let path = dir.join("report.html");
    write_atomic(&path, page::page(grid, columns)?.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::Made;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("runs")).unwrap();
        for (row, identity) in ["a", "b", "c"].into_iter().enumerate() {
            let record = Made { row, identity, loss: 0.5 + row as f64, ..Made::default() }.record();
            record.write(&dir.path().join(format!("runs/{identity}.json"))).unwrap();
        }
        dir
    }

    #[test]
    fn a_plot_that_fails_does_not_hide_the_table() {
        let dir = folder();
        // a file lies where the folder of the plots would be made
        std::fs::write(dir.path().join("plots"), "").unwrap();
        let drawn = report(dir.path(), &Options::default()).unwrap();
        assert!(drawn.text.contains("method 2"), "{}", drawn.text);
        assert_eq!(drawn.files.len(), 4);
        assert!(drawn.files.iter().all(|file| file.is_file()));
        assert!(drawn.warnings.len() == 1 && drawn.warnings[0].contains("plots"), "{:?}", drawn.warnings);
        // a table that cannot be written is an error
        std::fs::remove_file(dir.path().join("table.md")).unwrap();
        std::fs::create_dir(dir.path().join("table.md")).unwrap();
        let error = report(dir.path(), &Options::default()).unwrap_err().to_string();
        assert!(error.contains("table.md: cannot be written"), "{error}");
    }

    #[test]
    fn reports_at_the_same_time_do_not_disturb_each_other() {
        let dir = folder();
        let expected = report(dir.path(), &Options::default()).unwrap().text;
        let table = std::fs::read(dir.path().join("table.csv")).unwrap();
        std::thread::scope(|scope| {
            let draw = || report(dir.path(), &Options::default()).unwrap().text;
            let all: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            assert!(all.into_iter().all(|one| one.join().unwrap() == expected));
        });
        assert_eq!(std::fs::read(dir.path().join("table.csv")).unwrap(), table);
        let left = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    }

    #[test]
    fn the_plan_of_a_folder_is_read() {
        let dir = folder();
        let plan = r#"{ "schema": 1, "experiment": "e", "model": "m", "seeds": [0],
            "methods": [{ "label": "only this", "method": "m", "family": "f" }],
            "tasks": [{ "name": "t", "kind": "classification", "metric": "loss", "higher_is_better": false,
                "in_points": false }],
            "cells": [{ "method": 0, "task": 0, "seed": 0, "identity": "b" }] }"#;
        std::fs::write(dir.path().join(peftlab_record::MANIFEST), plan).unwrap();
        let text = report(dir.path(), &Options::default()).unwrap().text;
        assert!(text.contains("only this") && text.contains("1.500") && !text.contains("method 1"), "{text}");
        assert!(text.contains("2 records in runs/ are not of this plan"), "{text}");
    }
}
