//! What stands above and below a table. A note on a mark stands only where the mark does.

use std::collections::BTreeMap;
use std::path::Path;

use super::content::{Content, Rank};
use crate::format::counted;
use crate::grid::{Grid, NOT_RUN, Row};
use crate::marks;
use crate::options::Column;

/// A mark that a note explains; each form has its own sign for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    Deviation,
    Error,
    Best,
    Second,
    Tied,
    Seeds,
    Edge,
    Conditions,
}

/// A note.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) mark: Mark,
    pub(super) text: String,
}

/// What the table is of.
pub(super) fn title(grid: &Grid, content: &Content<'_>) -> String {
    let (tasks, seeds) = (counted(grid.tasks.len(), "task"), counted(grid.seeds, "seed"));
    let but = if content.other_conditions() { " (but for †)" } else { "" };
    format!("{}: {}, {tasks}, {seeds}, {}{but}", grid.name, grid.model, grid.place)
}

/// Everything that a reader of `content` should know.
pub(super) fn notes(grid: &Grid, content: &Content<'_>) -> Vec<Note> {
    let mut notes = Vec::new();
    scores(grid, content, &mut notes);
    measures(grid, content, &mut notes);
    let plain = |text: String| Note { mark: Mark::None, text };
    notes.extend(grid.notes.iter().cloned().map(plain));
    notes.extend(not_compared(grid).map(plain));
    notes.extend(failures(grid).into_iter().map(plain));
    notes
}

fn scores(grid: &Grid, content: &Content<'_>, notes: &mut Vec<Note>) {
    let mut note = |mark: Mark, text: String| notes.push(Note { mark, text });
    let shown: Vec<_> = content
        .columns
        .iter()
        .filter_map(|column| if let Column::Task(task) = column { grid.tasks.get(*task) } else { None })
        .collect();
    let any = |holds: &dyn Fn(&super::content::Shown) -> bool| content.scores().any(holds);
    let set = match shown.iter().filter(|task| task.on_validation).count() {
        0 => "test set",
        all if all == shown.len() => "validation set: no score is of a test set",
        _ => "test set, or of the validation set where a column says so",
    };
    let one_seed = if grid.seeds == 1 { "; one seed: no spread over seeds" } else { "" };
    if any(&|shown| shown.deviation.is_some()) {
        note(Mark::Deviation, "sample deviation over seeds".to_owned());
    }
    if any(&|shown| shown.error.is_some()) {
        note(Mark::Error, format!("standard error of the {set}{one_seed}"));
    } else if !shown.is_empty() {
        note(Mark::None, format!("scores are of the {set}{one_seed}"));
    }
    if any(&|shown| shown.rank == Rank::Best) {
        note(Mark::Best, "best of the column".to_owned());
    }
    if any(&|shown| shown.rank == Rank::Second) {
        note(Mark::Second, "second best of the column".to_owned());
    }
    let marked = shown.iter().filter_map(|task| Some((task.name.as_str(), task.marks.as_ref()?)));
    for line in marks::legend(&marked.collect::<Vec<_>>()) {
        match line.strip_prefix("* ") {
            Some(line) => note(Mark::Tied, line.to_owned()),
            None => note(Mark::None, line),
        }
    }
    if grid.random_weights {
        note(Mark::None, "weights drawn at random: scores mean nothing, and none is marked".to_owned());
    }
    if content.has(Column::Mean) && grid.has_mean() {
        let mut metrics: Vec<&str> = grid.tasks.iter().map(|task| task.metric.as_str()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let mixed =
            if metrics.len() > 1 { format!(" ({} alike)", metrics.join(", ")) } else { String::new() };
        note(Mark::None, format!("mean: over the {} tasks, in points{mixed}", grid.tasks.len()));
    }
    if any(&|shown| shown.seeds.is_some()) {
        let example = content.scores().find_map(|shown| shown.seeds).unwrap_or_default();
        let (found, planned) = example;
        note(
            Mark::Seeds,
            format!("{found}/{planned}: of {found} of {planned} seeds; the others have no score"),
        );
    }
}

/// Notes on the columns of what was measured, and of the rates.
fn measures(grid: &Grid, content: &Content<'_>, notes: &mut Vec<Note>) {
    let extras = &grid.extras;
    let tasks = if grid.tasks.len() > 1 { ", a task each" } else { "" };
    let memory = match (grid.on_device, grid.by_difference) {
        (true, false) => "GPU MiB: NVML's peak of the process while training",
        (true, true) => {
            "GPU MiB: peak while training of the whole device above its start: the driver does not list the process"
        }
        (false, _) => "peak MiB: the most the process had allocated on the host while training",
    };
    let meanings = [
        (Column::Loss, format!("loss: on validation after training{tasks}")),
        (Column::Base, "base MiB: the base model's weights at rest".to_owned()),
        (Column::Memory, memory.to_owned()),
        (Column::Speed, "tokens/s: median over steps and seeds, without padding".to_owned()),
        (Column::Step, "s/step: median".to_owned()),
    ];
    let shown = meanings.into_iter().filter(|(column, _)| content.has(*column)).map(|(_, text)| text);
    let shown: Vec<String> = shown.collect();
    let mut note = |mark: Mark, text: String| notes.push(Note { mark, text });
    if !shown.is_empty() {
        note(Mark::None, shown.join("; "));
    }
    if content.has(Column::Merged) && !extras.merges.is_empty() {
        note(
            Mark::None,
            format!("merged: loss on validation once the method is merged into the base{tasks}"),
        );
    }
    if content.other_conditions() {
        note(Mark::Conditions, other_conditions(grid));
    }
    let (tried, seeds) = &extras.tried;
    if content.has(Column::Rate) && !tried.is_empty() {
        let rates: Vec<String> = tried.iter().map(|rate| format!("{rate:e}")).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let (rates, seeds) = (rates.join(", "), seeds.join(", "));
        note(
            Mark::None,
            format!("rate: chosen on validation from {rates}, one trial each with seed {seeds}"),
        );
        let edge = |row: &Row| row.cells.iter().any(|cell| cell.costs.rate.is_some_and(|rate| rate.edge));
        if grid.rows.iter().any(edge) {
            note(Mark::Edge, "at the edge of the grid: a better rate may lie outside".to_owned());
        }
    } else if content.has(Column::Rate) {
        note(Mark::None, "rate: peak learning rate, set by hand in the experiment".to_owned());
    }
}

fn other_conditions(grid: &Grid) -> String {
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &grid.rows {
        if let Some(conditions) = &row.other_conditions {
            rows.entry(conditions).or_default().push(&row.label);
        }
    }
    let parts = rows.into_iter().map(|(conditions, rows)| format!("{conditions} ({})", few(&rows)));
    let parts: Vec<String> = parts.collect();
    format!("not comparable, for measured under other conditions: {}", parts.join("; "))
}

/// Some of `names`, and how many more there are.
fn few(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

fn not_compared(grid: &Grid) -> Option<String> {
    let mut all = Vec::new();
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            if cell.lacks_predictions {
                all.push(format!("{} on {}", row.label, task.name));
            }
        }
    }
    (!all.is_empty())
        .then(|| format!("not compared: {}, whose predictions.csv is not beside each record", few(&all)))
}

/// Characters of a failure's message.
const LONGEST: usize = 300;

/// What failed, each reason once.
fn failures(grid: &Grid) -> Vec<String> {
    let mut reasons: Vec<((&str, &str), Vec<String>)> = Vec::new();
    let mut said: Vec<String> = Vec::new();
    for row in &grid.rows {
        let everywhere = |failure: &(String, String)| {
            row.cells.len() > 1 && row.cells.iter().all(|cell| cell.failure.as_ref() == Some(failure))
        };
        for (place, (cell, task)) in row.cells.iter().zip(&grid.tasks).enumerate() {
            let Some(failure) = &cell.failure else { continue };
            said.extend(cell.runs.iter().filter_map(|run| said_by(&grid.records[*run].0)));
            let whole = everywhere(failure);
            if whole && place > 0 {
                continue;
            }
            let name = if whole { row.label.clone() } else { format!("{} on {}", row.label, task.name) };
            let reason = (failure.0.as_str(), failure.1.as_str());
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
    }
    let line = |((short, why), names): ((&str, &str), Vec<String>)| {
        if short == NOT_RUN {
            return format!("{NOT_RUN}: {}", few(&names));
        }
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let why = match why.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}..", &why[..end]),
            None => why,
        };
        format!("{short}: {}: {why}", few(&names))
    };
    let mut lines: Vec<String> = reasons.into_iter().map(line).collect();
    if !said.is_empty() {
        lines.push(format!("all that failed runs said: {}", few(&said)));
    }
    lines
}

/// The file beside a failed run's record with all that it said, if there is one: where it lies in the results folder.
fn said_by(record: &Path) -> Option<String> {
    let file = record.with_extension("stderr.txt");
    let name = file.file_name()?.to_string_lossy().into_owned();
    file.is_file().then(|| format!("{}/{name}", peftlab_record::RUNS))
}
