//! What of a table is shown, and in which order.

use std::cmp::Ordering;

use crate::ReportError;
use crate::grid::{Grid, Row};

/// What of a table is shown, and in which order. The default is all of it, in the plan's order.
#[derive(Clone, Debug)]
pub struct Options {
    /// What rows are sorted by: `score` (the mean over tasks, or the first task), a task's name, `trained`, `memory`, `speed`
    /// or `label`; the best, the smallest and the fastest first, and what has no number last.
    pub sort: Option<String>,
    /// What rows are grouped by: `family`.
    pub group: Option<String>,
    /// Columns beside the label, in this order: `trained`, `percent`, `rate`, `mean`, `loss`, `merged`, `base`, `memory`,
    /// `speed`, `step` and names of tasks; those that the experiment asks for where there are none.
    pub columns: Vec<String>,
    /// Columns of characters that the terminal has.
    pub width: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { sort: None, group: None, columns: Vec::new(), width: 120 }
    }
}

/// A column of a table, or several that stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Trained,
    Percent,
    Rate,
    /// The task at this place.
    Task(usize),
    Mean,
    Loss,
    /// Losses after merging, one for each way.
    Merged,
    Base,
    Memory,
    Speed,
    Step,
}

impl Column {
    const NAMED: [(&'static str, Self); 10] = [
        ("trained", Self::Trained),
        ("percent", Self::Percent),
        ("rate", Self::Rate),
        ("mean", Self::Mean),
        ("loss", Self::Loss),
        ("merged", Self::Merged),
        ("base", Self::Base),
        ("memory", Self::Memory),
        ("speed", Self::Speed),
        ("step", Self::Step),
    ];

    fn named<T: AsRef<str>>(name: &str, tasks: &[T]) -> Result<Self, ReportError> {
        let known = Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, column)| *column);
        let task = || tasks.iter().position(|task| task.as_ref() == name).map(Self::Task);
        let all = || Self::NAMED.iter().map(|(name, _)| *name).chain(tasks.iter().map(AsRef::as_ref));
        known.or_else(task).ok_or_else(|| unknown("columns", name, all()))
    }
}

/// The columns that a table shows beside the label, and whether its rows stand by family.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    pub(crate) shown: Vec<Column>,
    /// Whether they were asked for by name.
    pub(crate) chosen: bool,
    pub(crate) by_family: bool,
}

impl Columns {
    pub(crate) fn new(options: &Options, grid: &Grid) -> Result<Self, ReportError> {
        let tasks = names(grid);
        options.check(&tasks)?;
        let by_family = options.group.is_some();
        if options.columns.is_empty() {
            return Ok(Self { shown: usual(grid), chosen: false, by_family });
        }
        let shown: Result<Vec<Column>, ReportError> =
            options.columns.iter().map(|name| Column::named(name, &tasks)).collect();
        Ok(Self { shown: shown?, chosen: true, by_family })
    }
}

/// The columns that an experiment asks for.
fn usual(grid: &Grid) -> Vec<Column> {
    let extras = &grid.extras;
    let mut columns = vec![Column::Trained, Column::Percent];
    columns.extend(extras.rates.then_some(Column::Rate));
    columns.extend((0..grid.tasks.len()).map(Column::Task));
    columns.extend(grid.has_mean().then_some(Column::Mean));
    if extras.bases {
        columns.extend([Column::Loss, Column::Merged, Column::Base]);
    }
    columns.extend([Column::Memory, Column::Speed]);
    columns.extend(extras.bases.then_some(Column::Step));
    columns
}

fn names(grid: &Grid) -> Vec<String> {
    grid.tasks.iter().map(|task| task.name.clone()).collect()
}

fn unknown<'a>(option: &'static str, value: &str, known: impl Iterator<Item = &'a str>) -> ReportError {
    let known = known.collect::<Vec<_>>().join(", ");
    ReportError::Option { option, value: value.to_owned(), known }
}

impl Options {
    /// Whether everything that is named can be had of a table with these tasks: to be asked before the table is made, which
    /// may take days.
    ///
    /// # Errors
    /// Where something cannot; with what can.
    pub fn check<T: AsRef<str>>(&self, tasks: &[T]) -> Result<(), ReportError> {
        if let Some(other) = self.group.as_deref().filter(|group| *group != "family") {
            return Err(unknown("group", other, ["family"].into_iter()));
        }
        for name in &self.columns {
            Column::named(name, tasks)?;
        }
        self.sort.iter().try_for_each(|sort| Sort::new(sort, tasks).map(|_| ()))
    }

    /// Brings the rows of `grid` into the order that is asked for.
    pub(crate) fn arrange(&self, grid: &mut Grid) -> Result<(), ReportError> {
        if let Some(sort) = self.sort.as_deref() {
            let key = Sort::new(sort, &names(grid))?;
            // without a mean over tasks there is one task that the table is about
            let key = if matches!(key, Sort::Mean) && !grid.has_mean() { Sort::Task(0) } else { key };
            let tasks = std::mem::take(&mut grid.tasks);
            let values = |row: &Row| key.of(row, &tasks);
            match key {
                Sort::Label => grid.rows.sort_by(|a, b| a.label.cmp(&b.label)),
                _ => grid.rows.sort_by(|a, b| ascending(values(a), values(b))),
            }
            grid.tasks = tasks;
        }
        if self.group.is_some() {
            let mut families: Vec<String> = Vec::new();
            for row in &grid.rows {
                if !families.contains(&row.family) {
                    families.push(row.family.clone());
                }
            }
            grid.rows.sort_by_key(|row| families.iter().position(|family| *family == row.family));
        }
        Ok(())
    }
}

/// The smaller first, and what is no number last.
fn ascending(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.is_none().cmp(&b.is_none()).then_with(|| a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0)))
}

enum Sort {
    Mean,
    Task(usize),
    Trained,
    Memory,
    Speed,
    Label,
}

impl Sort {
    fn new<T: AsRef<str>>(name: &str, tasks: &[T]) -> Result<Self, ReportError> {
        Ok(match name {
            "score" => Self::Mean,
            "trained" => Self::Trained,
            "memory" => Self::Memory,
            "speed" => Self::Speed,
            "label" => Self::Label,
            name => match tasks.iter().position(|task| task.as_ref() == name) {
                Some(task) => Self::Task(task),
                None => {
                    let fixed = ["score", "trained", "memory", "speed", "label"].into_iter();
                    return Err(unknown("sort", name, fixed.chain(tasks.iter().map(AsRef::as_ref))));
                }
            },
        })
    }

    /// What sorts `row`, the smallest first.
    fn of(&self, row: &Row, tasks: &[crate::grid::Task]) -> Option<f64> {
        match self {
            Self::Mean => row.mean(tasks).map(|mean| -mean),
            Self::Task(task) => {
                let sign = if tasks.get(*task)?.higher_is_better { -1.0 } else { 1.0 };
                row.cells[*task].mean().map(|mean| sign * mean)
            }
            Self::Trained => row.ran().then_some(row.trained as f64),
            Self::Memory => row.peak_memory,
            Self::Speed => row.tokens_per_second.map(|speed| -speed),
            Self::Label => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Made, grid};

    fn sorted(sort: &str, group: Option<&str>) -> Vec<String> {
        let made = |row, label, family, loss, peak_bytes| Made {
            row,
            label: Some(label),
            family,
            loss,
            peak_bytes,
            ..Made::default()
        };
        let mut grid = grid(&[
            made(0, "b", "f", 0.5, 3),
            made(1, "c", "g", 0.3, 2),
            made(2, "a", "f", 0.4, 1),
            Made { out_of_memory: true, ..made(3, "d", "g", 0.0, 0) },
        ]);
        let options = Options {
            sort: (!sort.is_empty()).then(|| sort.to_owned()),
            group: group.map(str::to_owned),
            ..Options::default()
        };
        options.arrange(&mut grid).unwrap();
        grid.rows.into_iter().map(|row| row.label).collect()
    }

    #[test]
    fn rows_are_sorted_and_grouped_and_what_failed_is_last() {
        assert_eq!(sorted("", None), ["b", "c", "a", "d"]);
        assert_eq!(sorted("score", None), ["c", "a", "b", "d"]);
        assert_eq!(sorted("first", None), ["c", "a", "b", "d"]);
        assert_eq!(sorted("memory", None), ["a", "c", "b", "d"]);
        assert_eq!(sorted("label", None), ["a", "b", "c", "d"]);
        assert_eq!(sorted("", Some("family")), ["b", "a", "c", "d"]);
        assert_eq!(sorted("score", Some("family")), ["c", "d", "a", "b"]);
    }

    #[test]
    fn a_wrong_name_is_told_with_those_that_there_are() {
        let mut grid = grid(&[Made::default()]);
        let sort = Options { sort: Some("scor".to_owned()), ..Options::default() };
        let message = sort.arrange(&mut grid).unwrap_err().to_string();
        let known = "score, trained, memory, speed, label, first";
        assert_eq!(message, format!("--sort: there is no `scor`; there are: {known}"));
        let columns =
            Options { columns: vec!["trained".to_owned(), "frist".to_owned()], ..Options::default() };
        let message = Columns::new(&columns, &grid).unwrap_err().to_string();
        assert!(message.starts_with("--columns: there is no `frist`") && message.ends_with("step, first"));
        let group = Options { group: Some("size".to_owned()), ..Options::default() };
        assert!(Columns::new(&group, &grid).unwrap_err().to_string().ends_with("there are: family"));
    }

    #[test]
    fn chosen_columns_stand_in_the_order_in_which_they_were_named() {
        let names = ["speed", "first", "trained"].map(str::to_owned).to_vec();
        let columns =
            Columns::new(&Options { columns: names, ..Options::default() }, &grid(&[Made::default()]));
        assert_eq!(columns.unwrap().shown, [Column::Speed, Column::Task(0), Column::Trained]);
    }
}
