//! Scores of two results folders, side by side and tested.

use std::path::PathBuf;

use peftlab_metrics::{Metric, Predictions};
use peftlab_record::{Measured, Record, RecordError, Score};

use super::Side;
use crate::grid::predictions;
use crate::marks::{self, Difference};
use crate::stats::{deviation, holm, mean};
use crate::text;

/// A method's scores on a task in one folder.
#[derive(Default)]
struct Scores {
    /// One for each seed that went well.
    values: Vec<f64>,
    /// Predictions of each, where all are there.
    predictions: Option<Vec<Predictions>>,
}

/// A row of the table.
struct Line {
    task: String,
    label: String,
    metric: String,
    split: &'static str,
    /// By what a score is multiplied to be shown.
    factor: f64,
    sides: [Scores; 2],
    difference: Option<Difference>,
    /// Why there is no test.
    why: Option<&'static str>,
}

/// The table of scores, with what is to be said below it, for `rows` of task and label; empty where no row has a score.
pub(super) fn table(ours: &Side, theirs: &Side, rows: &[(&str, &str)]) -> Result<String, RecordError> {
    let mut lines = Vec::new();
    for (task, label) in rows {
        lines.extend(line(ours, theirs, task, label)?);
    }
    if lines.is_empty() {
        return Ok(String::new());
    }
    let tested: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].difference.is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|i| Some(lines[*i].difference?.p)).collect();
    let mut adjusted = vec![None; lines.len()];
    tested.iter().zip(holm(&p)).for_each(|(i, p)| adjusted[*i] = Some(p));
    let header = ["task", "method", "metric", &ours.name, &theirs.name, "difference", "95 % interval", "p"];
    let cells = lines.iter().zip(&adjusted).map(|(line, p)| line.cells(*p));
    Ok(text::table(&header.map(str::to_owned), cells, 3, None) + &notes(&lines))
}

fn notes(lines: &[Line]) -> String {
    let mut notes = String::from("scores: mean, ± sample deviation over seeds, (number of seeds)\n");
    if lines.iter().any(|line| line.difference.is_some()) {
        notes.push_str(
            "difference: the first less the second, tested over seeds and items; p: that there is none (Holm over the rows)\n",
        );
    }
    let one_seed = |line: &&Line| line.sides.iter().all(|side| side.values.len() < 2);
    for line in lines.iter().filter(|line| line.difference.is_some()).filter(one_seed) {
        notes += &format!(
            "{} on {}: one seed each, so that the test is of these runs alone\n",
            line.label, line.task
        );
    }
    for line in lines {
        if let Some(why) = line.why {
            notes += &format!("{} on {}: not tested: {why}\n", line.label, line.task);
        }
    }
    notes
}

fn line(ours: &Side, theirs: &Side, task: &str, label: &str) -> Result<Option<Line>, RecordError> {
    let runs = [measured(ours, task, label), measured(theirs, task, label)];
    let Some((_, first, _)) = runs.iter().flatten().next() else { return Ok(None) };
    // one kind of score in a row: where some run has none of a test set, it is of the validation set
    let on_validation = runs.iter().flatten().any(|(_, _, measured)| measured.test.is_empty());
    let name = first.task.metric.clone();
    let metric = Metric::parse(&name);
    let one_metric = runs.iter().flatten().all(|(_, run, _)| run.task.metric == name);
    let sides = [scores(&runs[0], metric, on_validation)?, scores(&runs[1], metric, on_validation)?];
    let (mut difference, mut why) = (None, None);
    if sides.iter().all(|side| !side.values.is_empty()) {
        match (metric, &sides[0].predictions, &sides[1].predictions) {
            _ if !one_metric => why = Some("the two have other metrics"),
            (Some(metric), Some(own), Some(other)) => {
                difference = marks::difference(metric, own, other);
                why = difference.is_none().then_some("the two are not of the same items");
            }
            _ => why = Some("predictions.csv is not beside each record"),
        }
    }
    Ok(Some(Line {
        task: task.to_owned(),
        label: label.to_owned(),
        metric: name,
        split: if on_validation { ", validation" } else { "" },
        factor: if first.task.in_points { 100.0 } else { 1.0 },
        sides,
        difference,
        why,
    }))
}

type Run<'r> = (&'r PathBuf, &'r Record, &'r Measured);

/// The runs of a method on a task that ended with finite losses.
fn measured<'r>(side: &'r Side, task: &str, label: &str) -> Vec<Run<'r>> {
    let here = side.runs.iter().filter(|(_, run)| run.task.name == task && run.label == label);
    here.filter_map(|(path, run)| Some((path, run, run.measured.as_ref()?)))
        .filter(|(_, _, measured)| measured.training.validation_loss_after.is_finite())
        .collect()
}

fn scores(runs: &[Run], metric: Option<Metric>, on_validation: bool) -> Result<Scores, RecordError> {
    let mut scores = Scores::default();
    let mut found = Vec::new();
    for (path, _, measured) in runs {
        let of_split: &[Score] = if on_validation { &measured.validation } else { &measured.test };
        let named = |score: &&Score| metric.is_none_or(|metric| score.metric == metric.name());
        let Some(score) = of_split.iter().find(named).filter(|score| score.value.is_finite()) else {
            continue;
        };
        scores.values.push(score.value);
        if let Some(metric) = metric {
            found.extend(predictions::of_run(path, measured, on_validation, metric, score.items)?);
        }
    }
    scores.predictions = (found.len() == scores.values.len()).then_some(found);
    Ok(scores)
}

impl Line {
    fn cells(&self, p: Option<f64>) -> Vec<String> {
        let digits = if self.factor == 1.0 { 3 } else { 1 };
        let signed = |value: f64| format!("{:+.digits$}", self.factor * value);
        let side = |scores: &Scores| {
            if scores.values.is_empty() {
                return "-".to_owned();
            }
            let deviation = deviation(&scores.values)
                .map_or(String::new(), |deviation| format!(" ±{:.digits$}", self.factor * deviation));
            let (mean, seeds) = (self.factor * mean(&scores.values), scores.values.len());
            format!("{mean:.digits$}{deviation} ({seeds})")
        };
        let [own, other] = &self.sides;
        let both = !own.values.is_empty()
            && !other.values.is_empty()
            && self.why != Some("the two have other metrics");
        let dash = || "-".to_owned();
        vec![
            self.task.clone(),
            self.label.clone(),
            format!("{}{}", self.metric, self.split),
            side(own),
            side(other),
            if both { signed(mean(&own.values) - mean(&other.values)) } else { dash() },
            self.difference
                .map_or_else(dash, |d| format!("{} to {}", signed(d.interval[0]), signed(d.interval[1]))),
            p.map_or_else(dash, |p| if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }),
        ]
    }
}
