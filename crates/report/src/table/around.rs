//! What the page says above and below its table, whose cells its own script writes.

use super::content::Content;
use super::notes::{Mark, notes, title};
use crate::grid::Grid;
use crate::options::Columns;

/// The title of a table, and its notes, each with the mark that it explains or an empty string.
pub(crate) struct Around {
    pub(crate) title: String,
    pub(crate) notes: Vec<(&'static str, String)>,
}

impl Around {
    pub(crate) fn new(grid: &Grid, columns: &Columns) -> Self {
        let content = Content::new(grid, columns);
        let mark = |mark: Mark| match mark {
            Mark::None | Mark::Seeds => "",
            Mark::Deviation => "±",
            Mark::Error => "(±)",
            Mark::Best => "bold",
            Mark::Second => "underlined",
            Mark::Tied => "*",
            Mark::Edge => "^",
            Mark::Conditions => "†",
        };
        let notes = notes(grid, &content).into_iter().map(|note| (mark(note.mark), note.text)).collect();
        Self { title: title(grid, &content), notes }
    }
}
