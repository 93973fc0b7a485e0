use csv::Writer;

use crate::grid::{Cell, Grid, Row, Task};

const COLUMNS: [&str; 21] = [
    "method",
    "family",
    "trained_parameters",
    "percent",
    "task",
    "metric",
    "split",
    "seeds",
    "mean",
    "deviation_over_seeds",
    "standard_error",
    "tied_with_best",
    "peak_memory_bytes",
    "tokens_per_second",
    "failure",
    "learning_rate",
    "rate_at_edge",
    "validation_loss",
    "step_seconds",
    "task_peak_memory_bytes",
    "base_bytes",
];

/// One line for each method and task, in full precision.
pub(crate) fn csv(grid: &Grid) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    let merges = grid.extras.merges.iter().map(|into| format!("validation_loss_merged_{into}"));
    let last = ["seeds_planned", "speed_conditions"].map(str::to_owned);
    let header = COLUMNS.map(str::to_owned).into_iter().chain(merges).chain(last);
    // writing into memory cannot fail
    let _ = writer.write_record(header);
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            let _ = writer.write_record(fields(grid, row, cell, task));
        }
    }
    writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn fields(grid: &Grid, row: &Row, cell: &Cell, task: &Task) -> Vec<String> {
    let text = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let ran = |text: String| if row.ran() { text } else { String::new() };
    let tied = if cell.best { Some(true) } else { cell.tied };
    let costs = &cell.costs;
    let mut fields = vec![
        row.label.clone(),
        row.family.clone(),
        ran(row.trained.to_string()),
        ran(row.percent.to_string()),
        task.name.clone(),
        task.metric.clone(),
        task.split().to_owned(),
        cell.scores.len().to_string(),
        text(cell.mean()),
        text(cell.deviation()),
        text(cell.standard_error),
        tied.map(|tied| tied.to_string()).unwrap_or_default(),
        text(row.peak_memory),
        text(row.tokens_per_second),
        cell.failure.as_ref().map(|(short, why)| format!("{short}: {why}")).unwrap_or_default(),
        text(costs.rate.map(|rate| rate.value)),
        costs.rate.map(|rate| rate.edge.to_string()).unwrap_or_default(),
        text(costs.loss),
        text(costs.step_seconds),
        text(costs.peak_memory),
        text(row.base_bytes),
    ];
    fields.extend(grid.extras.merges.iter().map(|into| text(costs.merged_into(into))));
    fields.push(cell.planned.to_string());
    fields.push(row.other_conditions.clone().unwrap_or_default());
    fields
}
