//! What the page's scripts read.

use peftlab_record::{Record, RecordError, read_table, steps_path};
use serde_json::{Value, json};

use super::columns::{columns, short};
use super::curves::Curves;
use crate::grid::{Cell, Grid, Row, Task};
use crate::options::{Column, Columns};
use crate::table::Around;

/// Everything that the page shows.
pub(super) fn data(grid: &Grid, shown: &Columns, around: &Around) -> Result<Value, RecordError> {
    // runs in the table's order: fields that a row's runs share lie side by side
    let order: Vec<usize> =
        grid.rows.iter().flat_map(|row| &row.cells).flat_map(|cell| cell.runs.iter().copied()).collect();
    let mut curves = Curves::new(order.len());
    let mut runs = Vec::new();
    let mut rows = Vec::new();
    let mut warnings: Vec<&str> = Vec::new();
    for (place, row) in grid.rows.iter().enumerate() {
        let mut cells = Vec::new();
        for (column, task) in grid.tasks.iter().enumerate() {
            let Some(cell) = row.cells.get(column) else { continue };
            let first = runs.len();
            runs.extend(cell_runs(grid, (place, column), &mut curves, &mut warnings)?);
            cells.push(json_cell(cell, task, first..runs.len()));
        }
        rows.push(json_row(grid, row, cells));
    }
    let records: Vec<&Record> = order.iter().map(|index| &grid.records[*index].1).collect();
    Ok(json!({
        "name": grid.name,
        "title": around.title,
        "model": grid.model,
        "place": grid.place,
        "seeds": grid.seeds,
        "notes": around.notes,
        "memory": if grid.on_device { "GPU" } else { "peak" },
        "columns": shown.shown.iter().map(column_name).collect::<Vec<_>>(),
        "by_task": grid.extras.by_task,
        "has_mean": grid.has_mean(),
        "merges": grid.extras.merges,
        "tasks": grid.tasks.iter().map(json_task).collect::<Vec<_>>(),
        "rows": rows,
        "runs": runs,
        "warnings": warnings,
        "fields": columns(&records),
        "thinned": curves.widest,
        "axes": curves.axes(),
    }))
}

/// What the page's script calls a column, or several that stand together.
fn column_name(column: &Column) -> String {
    match column {
        Column::Trained => "trained".to_owned(),
        Column::Percent => "percent".to_owned(),
        Column::Rate => "rate".to_owned(),
        Column::Task(task) => format!("task-{task}"),
        Column::Mean => "mean".to_owned(),
        Column::Loss => "loss".to_owned(),
        Column::Merged => "merged".to_owned(),
        Column::Base => "base".to_owned(),
        Column::Memory => "peak".to_owned(),
        Column::Speed => "speed".to_owned(),
        Column::Step => "step".to_owned(),
    }
}

fn json_task(task: &Task) -> Value {
    json!({
        "name": task.name,
        "kind": task.kind,
        "short": task.short(),
        "metric": task.metric,
        "split": task.split(),
        "higher_is_better": task.higher_is_better,
        "in_points": task.in_points,
    })
}

fn json_row(grid: &Grid, row: &Row, cells: Vec<Value>) -> Value {
    json!({
        "label": row.label,
        "family": row.family,
        "trained": row.ran().then_some(row.trained),
        "percent": row.ran().then_some(row.percent),
        "mean": row.mean(&grid.tasks),
        "conditions": row.other_conditions,
        "peak": row.peak_memory,
        "before": row.memory_before,
        "base": row.base_bytes,
        "tokens_per_second": row.tokens_per_second,
        "step_seconds": row.step_seconds,
        "cells": cells,
    })
}

fn json_cell(cell: &Cell, task: &Task, runs: std::ops::Range<usize>) -> Value {
    let shown = |value: Option<f64>| value.map(|value| task.shown(value));
    json!({
        "mean": shown(cell.mean()),
        "deviation": shown(cell.deviation()),
        "standard_error": shown(cell.standard_error),
        "seeds": cell.scores.len(),
        "planned": cell.planned,
        "best": cell.best,
        "second": cell.second,
        "tied": cell.tied,
        "failure": cell.failure,
        "rate": cell.costs.rate.map(|rate| rate.value),
        "at_edge": cell.costs.rate.is_some_and(|rate| rate.edge),
        "step_seconds": cell.costs.step_seconds,
        "peak": cell.costs.peak_memory,
        "loss": cell.costs.loss,
        "merged": cell.costs.merged,
        "runs": [runs.start, runs.end],
    })
}

/// The runs of a cell: where each stands, its file, its curves and what it warned of.
fn cell_runs<'g>(
    grid: &'g Grid,
    (row, column): (usize, usize),
    curves: &mut Curves,
    warnings: &mut Vec<&'g str>,
) -> Result<Vec<Value>, RecordError> {
    let cell = &grid.rows[row].cells[column];
    // a run that failed may have made steps, too: they often show why
    let read;
    let steps = match cell.losses.len() == cell.runs.len() {
        true => &cell.losses,
        false => {
            let paths = cell.runs.iter().map(|run| &grid.records[*run].0);
            let tables = paths.map(|path| Ok(read_table(&steps_path(path))?.unwrap_or_default()));
            read = tables.collect::<Result<Vec<_>, RecordError>>()?;
            &read
        }
    };
    let training = curves.training(steps);
    let mut runs = Vec::new();
    for (run, training) in cell.runs.iter().zip(training) {
        let (path, record) = &grid.records[*run];
        let looks = record.measured.as_ref().map_or(&[][..], |measured| &measured.training.looks);
        let told = record.warnings.iter().map(|warning| {
            warnings.iter().position(|known| known == warning).unwrap_or_else(|| {
                warnings.push(warning);
                warnings.len() - 1
            })
        });
        runs.push(json!({
            "row": row,
            "task": column,
            "file": path.file_name().map(|name| name.to_string_lossy()),
            "score": score(record, &grid.tasks[column]),
            "warnings": told.collect::<Vec<_>>(),
            "training": training,
            "validation": curves.validation(looks),
        }));
    }
    Ok(runs)
}

/// The run's score in its column; none where it failed or diverged.
fn score(record: &Record, task: &Task) -> Value {
    let measured = record.measured.as_ref().filter(|m| m.training.validation_loss_after.is_finite());
    let scores = measured.map(|m| if task.on_validation { &m.validation } else { &m.test });
    short(scores.and_then(|scores| scores.first()).map(|score| task.shown(score.value)), 6)
}
