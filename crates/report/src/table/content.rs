//! What stands in a table, before it is written in any form.

use crate::format::{decimals, grouped, mebibytes, number, percent, significant, whole};
use crate::grid::{Cell, Costs, Grid, Rate, Row, Task};
use crate::options::{Column, Columns};

/// A table's contents.
pub(super) struct Content<'g> {
    /// The columns that are shown.
    pub(super) columns: Vec<Column>,
    pub(super) header: Vec<Heading>,
    pub(super) lines: Vec<Line<'g>>,
    /// Whether the lines stand by family, each family in one piece.
    pub(super) by_family: bool,
}

/// The head of a column.
#[derive(Clone, Debug, Default)]
pub(super) struct Heading {
    pub(super) name: String,
    /// What is in parentheses below or behind the name: a task's metric.
    pub(super) unit: String,
}

impl Heading {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The heading on one line.
    pub(super) fn line(&self) -> String {
        if self.unit.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, self.unit) }
    }
}

/// A method's line.
pub(super) struct Line<'g> {
    pub(super) label: &'g str,
    pub(super) family: &'g str,
    pub(super) cells: Vec<Entry>,
}

/// What stands in a cell of the table.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A text, and whether it was measured under other conditions than most of the table.
    Text(String, bool),
    Score(Shown),
}

/// A score as it is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// The mean over seeds, or what stands in its place.
    pub(super) mean: String,
    pub(super) rank: Rank,
    pub(super) deviation: Option<String>,
    /// Standard error.
    pub(super) error: Option<String>,
    /// Whether it cannot be told from the best.
    pub(super) tied: bool,
    /// Seeds that have a score, of how many, where one is missing.
    pub(super) seeds: Option<(usize, usize)>,
    /// What became of a seed that has no score.
    pub(super) failure: Option<String>,
}

/// A place among the scores of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rank {
    Best,
    Second,
    #[default]
    Other,
}

impl Shown {
    fn new(cell: &Cell, task: &Task) -> Self {
        let failure = cell.failure.as_ref().map(|(short, _)| short.clone());
        let Some(mean) = cell.mean() else {
            return Self { mean: failure.unwrap_or("-".to_owned()), ..Self::default() };
        };
        let digits = decimals(task.shown(mean), task.in_points);
        let shown = |value: f64| number(task.shown(value), digits);
        let missing = cell.scores.len() < cell.planned;
        Self {
            mean: shown(mean),
            rank: match (cell.best, cell.second) {
                (true, _) => Rank::Best,
                (_, true) => Rank::Second,
                _ => Rank::Other,
            },
            deviation: cell.deviation().map(shown),
            error: cell.standard_error.map(shown),
            tied: cell.tied == Some(true),
            seeds: missing.then_some((cell.scores.len(), cell.planned)),
            failure,
        }
    }

    /// How many seeds there are and what became of the others, in parentheses; empty where none is missing.
    pub(super) fn missing(&self) -> String {
        let seeds = self.seeds.map(|(found, planned)| format!("{found}/{planned}"));
        let parts: Vec<String> = seeds.into_iter().chain(self.failure.clone()).collect();
        if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) }
    }
}

impl<'g> Content<'g> {
    pub(super) fn new(grid: &'g Grid, columns: &Columns) -> Self {
        let shown = &columns.shown;
        let line = |row: &'g Row| Line {
            label: &row.label,
            family: &row.family,
            cells: shown.iter().flat_map(|column| entries(grid, row, *column)).collect(),
        };
        Self {
            columns: shown.clone(),
            header: shown.iter().flat_map(|column| headings(grid, *column)).collect(),
            lines: grid.rows.iter().map(line).collect(),
            by_family: columns.by_family,
        }
    }

    /// The scores in it.
    pub(super) fn scores(&self) -> impl Iterator<Item = &Shown> {
        self.lines.iter().flat_map(|line| &line.cells).filter_map(|entry| match entry {
            Entry::Score(shown) => Some(shown),
            Entry::Text(..) => None,
        })
    }

    /// Whether a number in it was measured under other conditions than most.
    pub(super) fn other_conditions(&self) -> bool {
        let cells = || self.lines.iter().flat_map(|line| &line.cells);
        cells().any(|entry| matches!(entry, Entry::Text(_, true)))
    }

    pub(super) fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }

    /// The same without standard errors.
    pub(super) fn without_errors(mut self) -> Self {
        let cells = self.lines.iter_mut().flat_map(|line| &mut line.cells);
        for entry in cells {
            if let Entry::Score(shown) = entry {
                shown.error = None;
            }
        }
        self
    }
}

fn headings(grid: &Grid, column: Column) -> Vec<Heading> {
    let one = |name: &str| vec![Heading::new(name)];
    match column {
        Column::Trained => one("trained"),
        Column::Percent => one("%"),
        Column::Rate => one("rate"),
        Column::Task(task) => {
            let task = &grid.tasks[task];
            let split = if task.on_validation { ", validation" } else { "" };
            vec![Heading { name: task.name.clone(), unit: format!("{}{split}", task.short()) }]
        }
        Column::Mean => one("mean"),
        Column::Loss => one("loss"),
        Column::Merged => {
            grid.extras.merges.iter().map(|into| Heading::new(&format!("merged: {into}"))).collect()
        }
        Column::Base => one("base MiB"),
        Column::Memory => one(if grid.on_device { "GPU MiB" } else { "peak MiB" }),
        Column::Speed => one("tokens/s"),
        Column::Step => one("s/step"),
    }
}

/// One for each heading of `column`.
fn entries(grid: &Grid, row: &Row, column: Column) -> Vec<Entry> {
    let dash = || "-".to_owned();
    let ran = |text: String| if row.ran() { text } else { dash() };
    let one = |text: String| vec![Entry::Text(text, false)];
    // a dash was measured under no conditions
    let timed = |value: Option<f64>, text: String| {
        vec![Entry::Text(text, value.is_some() && row.other_conditions.is_some())]
    };
    match column {
        Column::Trained => one(ran(grouped(row.trained))),
        Column::Percent => one(ran(percent(row.percent))),
        Column::Rate => one(rates(row)),
        Column::Task(task) => vec![Entry::Score(Shown::new(&row.cells[task], &grid.tasks[task]))],
        Column::Mean => one(row.mean(&grid.tasks).map_or_else(dash, |mean| format!("{mean:.1}"))),
        Column::Loss => one(losses(row, |costs| costs.loss)),
        Column::Merged => {
            let merges = grid.extras.merges.iter();
            merges.map(|into| Entry::Text(losses(row, |costs| costs.merged_into(into)), false)).collect()
        }
        Column::Base => one(mebibytes(row.base_bytes)),
        Column::Memory => one(mebibytes(row.peak_memory)),
        Column::Speed => timed(row.tokens_per_second, whole(row.tokens_per_second)),
        Column::Step => timed(row.step_seconds, row.step_seconds.map_or_else(dash, significant)),
    }
}

/// The rates of a row, one for each task where they differ: `3e-3/1e-2^`.
fn rates(row: &Row) -> String {
    let text = |rate: Option<Rate>| match rate {
        Some(Rate { value, edge }) => format!("{value:e}{}", if edge { "^" } else { "" }),
        None => "-".to_owned(),
    };
    let mut all: Vec<String> = row.cells.iter().map(|cell| text(cell.costs.rate)).collect();
    if all.iter().all(|rate| *rate == all[0]) {
        all.truncate(1);
    }
    all.join("/")
}

/// Losses of a row, one for each task.
fn losses(row: &Row, pick: impl Fn(&Costs) -> Option<f64>) -> String {
    let all: Vec<Option<f64>> = row.cells.iter().map(|cell| pick(&cell.costs)).collect();
    if all.iter().all(Option::is_none) {
        return "-".to_owned();
    }
    let text = |loss: &Option<f64>| loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
    all.iter().map(text).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Made, grid};

    #[test]
    fn rates_are_marked_at_the_edge_and_joined_where_tasks_differ() {
        let tried = [1e-3, 3e-3, 1e-2];
        let made = |row, task, rate| Made { row, task, rate, tried: tried.to_vec(), ..Made::default() };
        let grid = grid(&[made(0, 0, 3e-3), made(0, 1, 1e-2), made(1, 0, 1e-3), made(1, 1, 1e-3)]);
        assert_eq!(grid.rows.iter().map(rates).collect::<Vec<_>>(), ["3e-3/1e-2^", "1e-3^"]);
    }

    #[test]
    fn a_failed_run_does_not_hide_the_edge() {
        let well = Made { seed: 1, tried: vec![1e-3, 3e-3], ..Made::default() };
        let failed = Made { seed: 0, out_of_memory: true, ..Made::default() };
        assert_eq!(rates(&grid(&[failed, well]).rows[0]), "1e-3^");
    }

    #[test]
    fn losses_of_tasks_and_merges_are_shown_with_a_dash_for_what_is_not() {
        let merged = |loss| vec![("weights".to_owned(), loss)];
        let made = |row, loss| Made { row, loss, ..Made::default() };
        let grid = grid(&[Made { merged: merged(0.65), ..made(0, 0.6) }, made(1, 0.25)]);
        let shown = |row: &Row| [losses(row, |costs| costs.loss), losses(row, |c| c.merged_into("weights"))];
        assert_eq!(shown(&grid.rows[0]), ["0.6000", "0.6500"]);
        assert_eq!(shown(&grid.rows[1]), ["0.2500", "-"]);
    }
}
