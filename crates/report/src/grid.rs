//! Records, put together as rows and columns.

mod agreement;
mod conditions;
mod costs;
pub(crate) mod predictions;
mod row;
mod selection;
mod task;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use peftlab_metrics::Metric;
use peftlab_record::{DevicePeakSource, Manifest, Record, RecordError};
use rayon::prelude::*;

use crate::format::size;
use crate::marks::{Mark, marks};
use conditions::Conditions;
pub(crate) use costs::{Costs, Extras, Rate};
use row::Shared;
pub(crate) use row::{Cell, NOT_RUN, Row};
pub(crate) use task::Task;

/// An experiment's table, before it is written in any form.
#[derive(Default)]
pub(crate) struct Grid {
    /// The experiment's name.
    pub(crate) name: String,
    /// The model's name and size.
    pub(crate) model: String,
    /// Where most of the runs ran.
    pub(crate) place: String,
    /// Number of seeds.
    pub(crate) seeds: usize,
    /// Columns.
    pub(crate) tasks: Vec<Task>,
    /// Rows, in the experiment's order unless they were sorted.
    pub(crate) rows: Vec<Row>,
    /// Whether the memory column is the device's, not the host's.
    pub(crate) on_device: bool,
    /// Whether some of the device's numbers are differences of the whole device's, not the driver's account of the
    /// process.
    pub(crate) by_difference: bool,
    /// Whether the model's weights are drawn at random, so that no score means anything.
    pub(crate) random_weights: bool,
    /// Which records were left out and why, in words.
    pub(crate) notes: Vec<String>,
    /// Columns that not every experiment has.
    pub(crate) extras: Extras,
    /// All that it is made of, with their files.
    pub(crate) records: Vec<(PathBuf, Record)>,
}

impl Grid {
    /// The table of `records`: of those that `manifest` holds, or, without one, of those that agree.
    pub(crate) fn new(
        manifest: Option<&Manifest>,
        records: Vec<(PathBuf, Record)>,
    ) -> Result<Self, RecordError> {
        let mut grid = Self::unmarked(manifest, records)?;
        grid.mark_columns();
        Ok(grid)
    }

    /// The table without marks on what is best.
    pub(crate) fn unmarked(
        manifest: Option<&Manifest>,
        records: Vec<(PathBuf, Record)>,
    ) -> Result<Self, RecordError> {
        let mut selection = match manifest {
            Some(manifest) => selection::by_plan(manifest, &records),
            None => agreement::by_agreement(&records),
        };
        let records = selection.keep_used(records);
        let all = || records.iter().map(|(_, record)| record);
        let column = |task: usize| {
            let runs = selection.slots.iter().flat_map(move |row| &row[task].runs);
            runs.map(|run| &records[*run].1)
        };
        let tasks: Vec<Task> =
            selection.tasks.iter().enumerate().map(|(i, task)| Task::new(task, column(i))).collect();
        let memory = || all().filter_map(|record| record.measured.as_ref()).map(|measured| &measured.memory);
        let usual = Conditions::usual(all());
        let random_weights = all().any(|record| record.settings["model"]["weights"] == "random");
        let shared = Shared {
            records: &records,
            tasks: &tasks,
            on_device: memory().any(|memory| memory.device_process_peak.is_some()),
            usual: usual.as_ref(),
            compared: selection.rows.len() > 1 && !random_weights,
        };
        let rows: Vec<Result<Row, RecordError>> = selection
            .rows
            .par_iter()
            .zip(&selection.slots)
            .map(|(method, slots)| shared.row(method, slots))
            .collect();
        // of several errors always the same one is told
        let rows = rows.into_iter().collect::<Result<Vec<Row>, RecordError>>()?;
        let costs = rows.iter().flat_map(|row| &row.cells).map(|cell| &cell.costs);
        let kinds: Vec<&str> = tasks.iter().map(|task| task.kind.as_str()).collect();
        let bases = rows.iter().filter_map(|row| row.base_bytes);
        let first = all().next();
        let base = first.map_or(String::new(), |first| format!(" ({})", size(first.parameters.base_total)));
        let dtype = first.map_or(String::new(), |first| format!(", {}", first.model.dtype));
        let place = usual.as_ref().map(Conditions::place).unwrap_or_default();
        Ok(Self {
            name: selection.experiment,
            model: selection.model + &base,
            place: place + &dtype,
            seeds: selection.seeds,
            on_device: shared.on_device,
            by_difference: memory()
                .any(|memory| memory.device_peak_source == Some(DevicePeakSource::Difference)),
            random_weights,
            notes: selection.notes,
            extras: Extras::new(all(), costs, bases, &kinds),
            tasks,
            rows,
            records,
        })
    }

    /// Marks what is best in each column, where scores mean something.
    pub(crate) fn mark_columns(&mut self) {
        if !self.random_weights {
            (0..self.tasks.len()).for_each(|column| self.mark(column));
        }
    }

    /// Whether a mean over tasks can be taken: there are several, and all are in points.
    pub(crate) fn has_mean(&self) -> bool {
        self.tasks.len() > 1 && self.tasks.iter().all(|task| task.in_points)
    }

    /// Finds the best of a column, and what cannot be told from it.
    fn mark(&mut self, column: usize) {
        let task = &self.tasks[column];
        let sign = if task.higher_is_better { 1.0 } else { -1.0 };
        let means: Vec<Option<f64>> = self.rows.iter().map(|row| row.cells[column].mean()).collect();
        let mut scored: Vec<(usize, f64)> =
            means.iter().enumerate().filter_map(|(i, mean)| Some((i, sign * (*mean)?))).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        // one row alone is the best of nothing
        let [(best, _), (second, _), ..] = scored[..] else { return };
        let runs: Vec<_> = self.rows.iter().map(|row| row.cells[column].predictions()).collect();
        let marks = marks(Metric::parse(&task.metric), task.higher_is_better, &means, &runs);
        for (row, mark) in self.rows.iter_mut().zip(&marks.marks) {
            row.cells[column].tied = match mark {
                Mark::Tied(_) => Some(true),
                Mark::Different(_) => Some(false),
                Mark::Best | Mark::NotTested => None,
            };
        }
        // nothing is the best where nothing can be told from it
        let equal = scored.iter().all(|(_, score)| *score == scored[0].1);
        let mut others = scored.iter().filter(|(i, _)| *i != best);
        let told = !equal && !others.all(|(i, _)| matches!(marks.marks[*i], Mark::Tied(_)));
        self.rows[best].cells[column].best = told;
        self.rows[second].cells[column].second = told && scored.len() > 2;
        self.tasks[column].marks = Some(marks);
    }
}
