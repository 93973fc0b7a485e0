//! Plots as SVG, PNG and PDF, from the same drawing: a list of shapes, which three small writers put into files. Colours
//! are Okabe and Ito's, which colour-blind readers tell apart, and markers differ. A picture that says nothing, as of
//! one point, is not drawn.

mod bars;
mod canvas;
mod font;
mod frame;
mod lengths;
mod losses;
mod output;
mod place;
mod scatter;
mod style;

use std::path::{Path, PathBuf};

use crate::ReportError;
use crate::grid::Grid;
use canvas::Canvas;
use lengths::Measure;
use losses::Losses;
use scatter::Against;

type Draw = fn(&Grid) -> Option<Canvas>;

/// Every picture there can be.
const PICTURES: [(&str, Draw); 8] = [
    ("score-parameters", |grid| scatter::draw(grid, Against::Parameters)),
    ("score-memory", |grid| scatter::draw(grid, Against::Memory)),
    ("score-time", |grid| scatter::draw(grid, Against::Time)),
    ("memory", bars::draw),
    ("loss", |grid| losses::draw(grid, Losses::Training)),
    ("validation-loss", |grid| losses::draw(grid, Losses::Validation)),
    ("time-by-length", |grid| lengths::draw(grid, Measure::Time)),
    ("memory-by-length", |grid| lengths::draw(grid, Measure::Memory)),
];

/// Draws every picture that says something into the folder `dir`, and removes the others that an earlier report drew.
pub(crate) fn all(grid: &Grid, dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let message = format!("the folder cannot be made: {error}; choose another with --out");
        ReportError::Plot { path: dir.to_owned(), message }
    })?;
    let one = |(name, draw): &(&str, Draw)| match draw(grid) {
        Some(canvas) => output::write(&canvas, name, dir),
        None => output::remove(name, dir).map(|()| Vec::new()),
    };
    // most of the time goes into pixels, and no picture needs another
    let drawn: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = PICTURES.iter().map(|picture| scope.spawn(move || one(picture))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut files = Vec::new();
    for picture in drawn {
        files.extend(picture.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
