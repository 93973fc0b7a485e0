//! What a method on a task cost and lost, beside its score; and which of it is worth a column.

use std::collections::BTreeSet;

use peftlab_record::{Measured, Record};

use crate::grid::{Grid, Row, Task};
use crate::stats::{mean, median};

/// Costs of a method on a task, over seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Costs {
    /// Peak learning rate; none where no rate could be chosen.
    pub(crate) rate: Option<Rate>,
    /// Seconds: the median over seeds of the median step.
    pub(crate) step_seconds: Option<f64>,
    /// Bytes: the mean over seeds of the peak while training.
    pub(crate) peak_memory: Option<f64>,
    /// Mean validation loss after training.
    pub(crate) loss: Option<f64>,
    /// Mean validation loss after merging, by what was merged into.
    pub(crate) merged: Vec<(String, f64)>,
}

/// A learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) value: f64,
    /// Whether it is the lowest or the highest of those that were tried: a better one may lie outside.
    pub(crate) edge: bool,
}

impl Costs {
    pub(crate) fn new(runs: &[&Record], on_device: bool) -> Self {
        let measured: Vec<&Measured> = runs.iter().filter_map(|record| record.measured.as_ref()).collect();
        // what is no finite number stands for a run that diverged
        let over = |middle: fn(&[f64]) -> f64, mut values: Vec<f64>| {
            values.retain(|value| value.is_finite());
            (!values.is_empty()).then(|| middle(&values))
        };
        let peak = |m: &&Measured| {
            let memory = &m.memory;
            if on_device { memory.device_process_peak } else { memory.host_allocated_peak }
        };
        let merges = || measured.iter().flat_map(|m| &m.merged);
        let mut merged: Vec<(String, f64)> = Vec::new();
        for one in merges() {
            if !merged.iter().any(|(into, _)| *into == one.into) {
                let same = merges().filter(|other| other.into == one.into);
                let losses = over(mean, same.map(|other| other.validation_loss).collect());
                merged.extend(losses.map(|loss| (one.into.clone(), loss)));
            }
        }
        Self {
            rate: rate(runs),
            step_seconds: over(median, measured.iter().map(|m| m.time.step.median).collect()),
            peak_memory: over(mean, measured.iter().filter_map(peak).map(|bytes| bytes as f64).collect()),
            loss: over(mean, measured.iter().map(|m| m.training.validation_loss_after).collect()),
            merged,
        }
    }

    /// Mean validation loss after merging into `into`.
    pub(crate) fn merged_into(&self, into: &str) -> Option<f64> {
        self.merged.iter().find(|(name, _)| name == into).map(|(_, loss)| *loss)
    }
}

/// The rate of the runs of a method on a task; the ones that failed do not know what it was chosen from.
fn rate(runs: &[&Record]) -> Option<Rate> {
    let value = runs.iter().find_map(|record| record.settings["training"]["learning_rate"].as_f64())?;
    let tried: Vec<f64> =
        runs.iter().flat_map(|record| trials(record)).map(|trial| trial.learning_rate).collect();
    let many = tried.iter().any(|rate| *rate != tried[0]);
    let edge = tried.iter().all(|rate| *rate >= value) || tried.iter().all(|rate| *rate <= value);
    Some(Rate { value, edge: many && edge })
}

fn trials(record: &Record) -> impl Iterator<Item = &peftlab_record::Trial> {
    record.measured.iter().filter_map(|m| m.training.searched.as_ref()).flatten()
}

/// Columns that not every experiment has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    /// The learning rate: it was searched, or is not everywhere the same.
    pub(crate) rates: bool,
    /// The rates that were tried, ascending, and the seeds of the trials.
    pub(crate) tried: (Vec<f64>, BTreeSet<u64>),
    /// The base's bytes, the loss and the time of a step: bases differ, or methods were merged.
    pub(crate) bases: bool,
    /// What methods were merged into, in the order in which records name it.
    pub(crate) merges: Vec<String>,
    /// Time and memory of each task: they are one task at several sizes.
    pub(crate) by_task: bool,
}

impl Extras {
    /// What `records` ask for, of which `tasks` and `rows` are made.
    pub(crate) fn new<'a>(
        records: impl Iterator<Item = &'a Record> + Clone,
        tasks: &[Task],
        rows: &[Row],
    ) -> Self {
        let mut tried: Vec<f64> = records.clone().flat_map(trials).map(|trial| trial.learning_rate).collect();
        tried.sort_by(f64::total_cmp);
        tried.dedup();
        let seeds = records.flat_map(trials).map(|trial| trial.seed).collect();
        let costs = || rows.iter().flat_map(|row| &row.cells).map(|cell| &cell.costs);
        let mut values = costs().filter_map(|costs| costs.rate).map(|rate| rate.value);
        let first = values.next();
        let mut merges: Vec<String> = Vec::new();
        for (into, _) in costs().flat_map(|costs| &costs.merged) {
            if !merges.contains(into) {
                merges.push(into.clone());
            }
        }
        let mut bases = rows.iter().filter_map(|row| row.base_bytes);
        let base = bases.next();
        Self {
            rates: !tried.is_empty() || values.any(|value| Some(value) != first),
            tried: (tried, seeds),
            bases: !merges.is_empty() || bases.any(|bytes| Some(bytes) != base),
            merges,
            by_task: tasks.len() > 1 && tasks.iter().all(|task| task.kind == "causal-lm"),
        }
    }
}

/// The rates of a row, one for each task where they differ: `3e-3/1e-2^`.
pub(crate) fn rates(row: &Row) -> String {
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
pub(crate) fn losses(row: &Row, pick: impl Fn(&Costs) -> Option<f64>) -> String {
    let all: Vec<Option<f64>> = row.cells.iter().map(|cell| pick(&cell.costs)).collect();
    if all.iter().all(Option::is_none) {
        return "-".to_owned();
    }
    let text = |loss: &Option<f64>| loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
    all.iter().map(text).collect::<Vec<_>>().join("/")
}

/// Losses of a row after merging into `into`.
pub(crate) fn merged(row: &Row, into: &str) -> String {
    losses(row, |costs| costs.merged_into(into))
}

/// What the columns mean.
pub(crate) fn legend(grid: &Grid) -> Vec<String> {
    let extras = &grid.extras;
    let mut lines = Vec::new();
    let (tried, seeds) = &extras.tried;
    if !tried.is_empty() {
        let list = |values: Vec<String>| values.join(", ");
        let (rates, seeds) = (
            list(tried.iter().map(|rate| format!("{rate:e}")).collect()),
            list(seeds.iter().map(u64::to_string).collect()),
        );
        lines.push(format!("rate: chosen on validation from {rates}, one trial each with seed {seeds}"));
        let edge = |row: &Row| row.cells.iter().any(|cell| cell.costs.rate.is_some_and(|rate| rate.edge));
        if grid.rows.iter().any(edge) {
            lines.push("^ at the edge of the grid: a better rate may lie outside".to_owned());
        }
    } else if extras.rates {
        lines.push("rate: peak learning rate, set by hand in the experiment".to_owned());
    }
    let tasks = if grid.tasks.len() > 1 { ", a task each" } else { "" };
    if extras.bases {
        lines.push(format!(
            "base MiB: the base model's weights at rest; loss: on validation after training{tasks}; \
             s/step: median"
        ));
    }
    if !extras.merges.is_empty() {
        lines.push(format!("merged: loss on validation once the method is merged into the base{tasks}"));
    }
    lines
}

/// The table of time and memory by task, its header first.
pub(crate) fn by_task(
    grid: &Grid,
    number: impl Fn(f64) -> String,
    bytes: impl Fn(f64) -> String,
) -> Vec<Vec<String>> {
    let names = || grid.tasks.iter().map(|task| &task.name);
    let mut header = vec!["method".to_owned()];
    header.extend(names().map(|name| format!("{name} s")));
    header.extend(names().map(|name| format!("{name} MiB")));
    let mut lines = vec![header];
    for row in &grid.rows {
        let mut line = vec![row.label.clone()];
        let missing = |cell: &crate::grid::Cell| {
            cell.failure.as_ref().map_or("-".to_owned(), |(short, _)| short.clone())
        };
        let cells = || row.cells.iter();
        line.extend(cells().map(|cell| cell.costs.step_seconds.map_or_else(|| missing(cell), &number)));
        line.extend(cells().map(|cell| cell.costs.peak_memory.map_or_else(|| missing(cell), &bytes)));
        lines.push(line);
    }
    lines
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
        assert!(grid.extras.rates);
        assert_eq!(grid.rows.iter().map(rates).collect::<Vec<_>>(), ["3e-3/1e-2^", "1e-3^"]);
        let legend = legend(&grid).join("\n");
        assert!(
            legend
                .starts_with("rate: chosen on validation from 1e-3, 3e-3, 1e-2, one trial each with seed 7")
        );
        assert!(legend.contains("^ at the edge of the grid"), "{legend}");
    }

    #[test]
    fn a_failed_run_does_not_hide_the_edge() {
        let well = Made { seed: 1, tried: vec![1e-3, 3e-3], ..Made::default() };
        let failed = Made { seed: 0, out_of_memory: true, ..Made::default() };
        assert_eq!(rates(&grid(&[failed, well]).rows[0]), "1e-3^");
    }

    #[test]
    fn rates_set_by_hand_are_shown_where_they_differ() {
        let made = |row, rate| Made { row, rate, ..Made::default() };
        assert_eq!(grid(&[made(0, 1e-3), made(1, 1e-3)]).extras, Extras::default());
        let differ = grid(&[made(0, 1e-3), made(1, 2e-4)]);
        assert_eq!(differ.rows.iter().map(rates).collect::<Vec<_>>(), ["1e-3", "2e-4"]);
        assert!(legend(&differ)[0].contains("by hand"));
    }

    #[test]
    fn losses_and_merges_are_means_over_seeds() {
        let made = |seed, loss, merged: &[(&str, f64)]| Made {
            seed,
            loss,
            base_bytes: Some(1 << 20),
            merged: merged.iter().map(|(into, loss)| ((*into).to_owned(), *loss)).collect(),
            ..Made::default()
        };
        let plain = Made { row: 1, loss: 0.25, base_bytes: Some(4 << 20), ..Made::default() };
        let grid = grid(&[
            made(0, 0.5, &[("weights", 0.6), ("zero points", 0.5)]),
            made(1, 0.7, &[("weights", 0.7), ("zero points", 0.7)]),
            plain,
        ]);
        assert!(grid.extras.bases && !grid.extras.by_task);
        assert_eq!(grid.extras.merges, ["weights", "zero points"]);
        let shown = |row: &Row| [losses(row, |costs| costs.loss), merged(row, "weights")];
        assert_eq!(shown(&grid.rows[0]), ["0.6000", "0.6500"]);
        assert_eq!(shown(&grid.rows[1]), ["0.2500", "-"]);
        assert_eq!(grid.rows[0].base_bytes, Some(1048576.0));
    }

    #[test]
    fn bases_of_one_size_are_no_news() {
        let made = |row| Made { row, base_bytes: Some(5), ..Made::default() };
        assert!(!grid(&[made(0), made(1)]).extras.bases);
        assert!(grid(&[made(0), Made { base_bytes: Some(3), ..made(1) }]).extras.bases);
    }

    #[test]
    fn tasks_of_several_lengths_have_a_table_of_their_own() {
        let made = |row, task, step_seconds, out_of_memory| Made {
            row,
            task,
            kind: "causal-lm",
            tasks: &["n=512", "n=1024"],
            step_seconds,
            out_of_memory,
            ..Made::default()
        };
        let grid = grid(&[
            made(0, 0, 0.5, false),
            made(0, 1, 1.5, false),
            made(1, 0, 0.25, false),
            made(1, 1, 0.0, true),
        ]);
        assert!(grid.extras.by_task);
        let lines = by_task(&grid, |seconds| seconds.to_string(), |bytes| bytes.to_string());
        assert_eq!(lines[0], ["method", "n=512 s", "n=1024 s", "n=512 MiB", "n=1024 MiB"]);
        assert_eq!(lines[1], ["method 0", "0.5", "1.5", "1048576", "1048576"]);
        assert_eq!(lines[2], ["method 1", "0.25", "OOM", "1048576", "OOM"]);
    }
}
