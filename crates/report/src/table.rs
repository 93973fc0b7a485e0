//! The comparison table in the manner of Xu et al. (arXiv 2312.12148): methods as rows.

use std::fmt::Write;

use crate::compare::significant;
use crate::costs;
use crate::grid::{Cell, Grid, Row, Task};
use crate::marks;

/// The widest a table may be on a terminal.
const WIDTH: usize = 120;

/// Digits in groups of three.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn percent(value: f64) -> String {
    if value >= 0.1 { format!("{value:.2}") } else { format!("{value:.4}") }
}

pub(crate) fn mebibytes(bytes: Option<f64>) -> String {
    bytes.map_or("-".to_owned(), |bytes| {
        let value = bytes / f64::from(1 << 20);
        if value < 1000.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
    })
}

fn rate(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| grouped(value.round() as u64))
}

/// How a score is written, with what before and after the best.
struct Style {
    best: [&'static str; 2],
    plus_minus: &'static str,
    errors: bool,
}

fn score(cell: &Cell, task: &Task, style: &Style) -> String {
    let Some(mean) = cell.mean() else {
        return cell.failure.as_ref().map_or("-".to_owned(), |(short, _)| short.clone());
    };
    let digits = if task.in_points { 1 } else { 3 };
    let [before, after] = if cell.best { style.best } else { ["", ""] };
    let pm = style.plus_minus;
    let mut text = format!("{before}{:.digits$}{after}", task.shown(mean));
    if let Some(deviation) = cell.deviation() {
        let _ = write!(text, " {pm}{:.digits$}", task.shown(deviation));
    }
    if let (Some(error), true) = (cell.standard_error, style.errors) {
        let _ = write!(text, " ({pm}{:.digits$})", task.shown(error));
    }
    if cell.tied == Some(true) {
        text.push_str(" *");
    }
    if let Some((short, _)) = &cell.failure {
        let _ = write!(text, " ({short})");
    }
    text
}

fn header(grid: &Grid) -> Vec<String> {
    let memory = if grid.on_device { "GPU MiB" } else { "peak MiB" };
    let tasks = grid.tasks.iter().map(Task::header);
    let means = has_mean(grid).then(|| "mean".to_owned());
    let mut header = ["method", "trained", "%"].map(str::to_owned).to_vec();
    if grid.extras.rates {
        header.push("rate".to_owned());
    }
    header.extend(tasks.chain(means));
    if grid.extras.bases {
        header.push("loss".to_owned());
        header.extend(grid.extras.merges.iter().map(|into| format!("merged: {into}")));
        header.push("base MiB".to_owned());
    }
    header.extend([memory, "tokens/s"].map(str::to_owned));
    header.extend(grid.extras.bases.then(|| "s/step".to_owned()));
    header
}

fn has_mean(grid: &Grid) -> bool {
    grid.tasks.len() > 1 && grid.tasks.iter().all(|task| task.in_points)
}

fn cells(grid: &Grid, row: &Row, style: &Style) -> Vec<String> {
    let mut out = vec![row.label.clone(), grouped(row.trained), percent(row.percent)];
    out.extend(grid.extras.rates.then(|| costs::rates(row)));
    out.extend(row.cells.iter().zip(&grid.tasks).map(|(cell, task)| score(cell, task, style)));
    if has_mean(grid) {
        out.push(row.mean(&grid.tasks).map_or("-".to_owned(), |mean| format!("{mean:.1}")));
    }
    if grid.extras.bases {
        out.push(costs::losses(row, |costs| costs.loss));
        out.extend(grid.extras.merges.iter().map(|into| costs::merged(row, into)));
        out.push(mebibytes(row.base_bytes));
    }
    out.extend([mebibytes(row.peak_memory), rate(row.tokens_per_second)]);
    out.extend(grid.extras.bases.then(|| row.step_seconds.map_or("-".to_owned(), significant)));
    out
}

fn title(grid: &Grid) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (tasks, seeds) = (plural(grid.tasks.len(), "task"), plural(grid.seeds, "seed"));
    format!("{}: {}, {tasks}, {seeds}, {}", grid.name, grid.model, grid.place)
}

fn legend(grid: &Grid) -> Vec<String> {
    let on_validation = grid.tasks.iter().filter(|task| task.on_validation).count();
    let set = match on_validation {
        0 => "test set",
        all if all == grid.tasks.len() => "validation set: no score is of a test set",
        _ => "test set, or of the validation set where a column says so",
    };
    let mut lines = vec![match grid.seeds {
        1 => format!("(±) standard error of the {set}; one seed: no spread over seeds"),
        _ => format!("± sample deviation over seeds; (±) standard error of the {set}"),
    }];
    let marked = grid.tasks.iter().filter_map(|task| Some((task.name.as_str(), task.marks.as_ref()?)));
    lines.extend(marks::legend(&marked.collect::<Vec<_>>()));
    lines.push(match (grid.on_device, grid.by_difference) {
        (true, false) => "GPU MiB: NVML's peak of the process while training".to_owned(),
        (true, true) => "GPU MiB: peak while training of the whole device above its start: the driver does not list the process".to_owned(),
        (false, _) => "peak MiB: the most the process had allocated on the host while training; tokens/s without padding".to_owned(),
    });
    lines.extend(grid.mixtures.iter().cloned());
    lines.extend(costs::legend(grid));
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            if cell.lacks_predictions {
                lines.push(format!(
                    "not compared: {} on {}, whose predictions.csv is not beside each record",
                    row.label, task.name
                ));
            }
            if let Some((short, why)) = &cell.failure {
                lines.push(format!("{short}: {} on {}: {why}", row.label, task.name));
            }
        }
    }
    lines
}

/// The second table, where tasks are one at several sizes.
fn by_task(grid: &Grid) -> Option<Vec<Vec<String>>> {
    grid.extras.by_task.then(|| costs::by_task(grid, significant, |bytes| mebibytes(Some(bytes))))
}

fn by_task_title(grid: &Grid) -> String {
    let peak = if grid.on_device { "of the GPU" } else { "allocated on the host" };
    format!("time and memory by task: median of a step in seconds, peak MiB {peak} while training")
}

/// The table as a terminal shows it, at most [`WIDTH`] columns wide.
pub(crate) fn terminal(grid: &Grid) -> String {
    let render = |errors: bool| {
        let style = Style { best: ["", ""], plus_minus: "±", errors };
        let mut lines = vec![header(grid)];
        lines.extend(grid.rows.iter().map(|row| cells(grid, row, &style)));
        aligned(&lines, 1)
    };
    let full = render(true);
    let fits = |text: &str| text.lines().all(|line| line.chars().count() <= WIDTH);
    let table = if fits(&full) { full } else { render(false) };
    let mut text = format!("{}\n\n{table}", title(grid));
    for line in legend(grid) {
        text.push_str(&line.chars().take(WIDTH).collect::<String>());
        text.push('\n');
    }
    if let Some(lines) = by_task(grid) {
        let _ = write!(text, "\n{}\n\n{}", by_task_title(grid), aligned(&lines, 1));
    }
    text
}

/// Columns as wide as their widest cell; the first `names` are flush left, the others right.
pub(crate) fn aligned(lines: &[Vec<String>], names: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i < names {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The table in Markdown.
pub(crate) fn markdown(grid: &Grid) -> String {
    let style = Style { best: ["**", "**"], plus_minus: "±", errors: true };
    let header = header(grid);
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | ").replace("* |", "\\* |"))
    };
    let rule = |columns: usize| format!("| --- |{}\n", " ---: |".repeat(columns - 1));
    let mut text = format!("{}\n\n{}", title(grid), line(&header));
    text.push_str(&rule(header.len()));
    for row in &grid.rows {
        text.push_str(&line(&cells(grid, row, &style)));
    }
    text.push('\n');
    for note in legend(grid) {
        let _ = writeln!(text, "{}  ", note.replacen('*', "\\*", 1));
    }
    if let Some(lines) = by_task(grid) {
        let _ = write!(text, "\n{}\n\n{}{}", by_task_title(grid), line(&lines[0]), rule(lines[0].len()));
        text.extend(lines[1..].iter().map(|cells| line(cells)));
    }
    text
}

/// The table in LaTeX, for the package `booktabs`.
pub(crate) fn latex(grid: &Grid) -> String {
    let style = Style { best: ["\\textbf{", "}"], plus_minus: "$\\pm$", errors: true };
    let mut text = format!("% {}\n", title(grid));
    let row = |row: &Row| {
        let mut cells = cells(grid, row, &style);
        cells[0] = escape(&cells[0]);
        if grid.extras.rates {
            cells[RATE] = escape(&cells[RATE]);
        }
        cells
    };
    tabular(&mut text, &header(grid), grid.rows.iter().map(row));
    for note in legend(grid) {
        let _ = writeln!(text, "% {note}");
    }
    if let Some(lines) = by_task(grid) {
        let _ = writeln!(text, "\n% {}", by_task_title(grid));
        let escaped = lines[1..].iter().map(|line| line.iter().map(|cell| escape(cell)).collect());
        tabular(&mut text, &lines[0], escaped);
    }
    text
}

/// Place of the column with the learning rate, if there is one.
const RATE: usize = 3;

fn tabular(text: &mut String, header: &[String], rows: impl Iterator<Item = Vec<String>>) {
    let header: Vec<String> = header.iter().map(|cell| escape(cell)).collect();
    let _ = writeln!(text, "\\begin{{tabular}}{{l{}}}\n\\toprule", "r".repeat(header.len() - 1));
    let _ = writeln!(text, "{} \\\\\n\\midrule", header.join(" & "));
    for cells in rows {
        let _ = writeln!(text, "{} \\\\", cells.join(" & ").replace(" *", "\\rlap{$^{*}$}"));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// One line for each method and task, in full precision.
pub(crate) fn csv(grid: &Grid) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut header = [
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
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(grid.extras.merges.iter().map(|into| format!("validation_loss_merged_{into}")));
    // writing into memory cannot fail
    let _ = writer.write_record(&header);
    let text = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            let tied = if cell.best { Some(true) } else { cell.tied };
            let costs = &cell.costs;
            let mut fields = vec![
                row.label.clone(),
                row.family.clone(),
                row.trained.to_string(),
                row.percent.to_string(),
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
            let _ = writer.write_record(&fields);
        }
    }
    writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Made, grid};

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(grouped(4_386_178), "4,386,178");
        assert_eq!(grouped(12), "12");
        assert_eq!(percent(0.0059), "0.0059");
        assert_eq!(percent(100.0), "100.00");
        assert_eq!(mebibytes(Some(10.5 * 1048576.0)), "10.5");
        assert_eq!(mebibytes(None), "-");
    }

    #[test]
    fn extra_columns_are_in_every_form() {
        let made = |row| Made {
            row,
            rate: if row == 0 { 1e-3 } else { 1e-2 },
            tried: vec![1e-3, 3e-3, 1e-2],
            base_bytes: Some(3 << 20),
            merged: vec![("zero points".to_owned(), 1.25)],
            ..Made::default()
        };
        let grid = grid(&[made(0), made(1)]);
        let extra = ["rate", "loss", "merged: zero points", "base MiB", "s/step"];
        for text in [terminal(&grid), markdown(&grid), latex(&grid)] {
            let header = text.lines().find(|line| line.contains("trained")).unwrap();
            assert!(extra.iter().all(|name| header.contains(name)), "{header}");
            assert!(text.contains("1.2500") && text.contains("one trial each with seed 7"), "{text}");
        }
        assert!(latex(&grid).contains(" & 1e-2\\textasciicircum{} & "), "{}", latex(&grid));
        let csv = csv(&grid);
        assert!(
            csv.lines().next().unwrap().ends_with("base_bytes,validation_loss_merged_zero points"),
            "{csv}"
        );
        assert!(csv.lines().nth(2).unwrap().ends_with(",0.01,true,1,1,1048576,3145728,1.25"), "{csv}");
    }

    #[test]
    fn what_is_no_number_is_never_the_best_and_never_shown_as_one() {
        let made = |row, score: f64, loss: f64| Made { row, score: Some(score), loss, ..Made::default() };
        // the second has an undefined score, the third a score although its validation loss is NaN
        let grid = grid(&[made(0, 0.5, 0.5), made(1, f64::NAN, 0.4), made(2, 0.1, f64::NAN)]);
        let best: Vec<bool> = grid.rows.iter().map(|row| row.cells[0].best).collect();
        assert_eq!(best, [true, false, false]);
        for text in [terminal(&grid), markdown(&grid), latex(&grid), csv(&grid)] {
            assert!(
                !text.contains("NaN") && text.contains("undefined") && text.contains("diverged"),
                "{text}"
            );
        }
        let csv = csv(&grid);
        let fields: Vec<&str> = csv.lines().nth(2).unwrap().split(',').collect();
        assert_eq!(fields[7..11], ["0", "", "", ""], "{csv}");
        let none = super::tests::grid(&[made(0, f64::NAN, 0.5)]);
        assert!(!none.rows[0].cells[0].best && !markdown(&none).contains("**"));
    }

    #[test]
    fn a_validation_score_is_not_called_a_tests() {
        let made = |row, task, tested| Made { row, task, tested, ..Made::default() };
        let text = |records: &[Made]| terminal(&grid(records));
        let tested = text(&[made(0, 0, true)]);
        assert!(
            tested.contains("first (loss)") && tested.contains("standard error of the test set"),
            "{tested}"
        );
        let validated = text(&[made(0, 0, false)]);
        assert!(validated.contains("first (loss, validation)"), "{validated}");
        assert!(validated.contains("no score is of a test set"), "{validated}");
        // one run of a column has no test set: the column is of validation
        let mixed = grid(&[made(0, 0, true), made(1, 0, false), made(0, 1, true), made(1, 1, true)]);
        let text = terminal(&mixed);
        assert!(text.contains("first (loss, validation)") && text.contains("second (loss)"), "{text}");
        assert!(text.contains("of the validation set where a column says so"), "{text}");
        assert_eq!(mixed.rows[0].cells[0].scores.len(), 1);
        let csv = csv(&mixed);
        assert!(csv.contains("first,loss,validation,") && csv.contains("second,loss,test,"), "{csv}");
    }

    #[test]
    fn a_method_that_grows_has_the_parameters_that_it_ends_with() {
        let grid = grid(&[Made { trained_end: Some(25), ..Made::default() }]);
        assert_eq!(grid.rows[0].trained, 25);
    }

    #[test]
    fn memory_by_difference_is_called_that() {
        let text = terminal(&grid(&[Made { by_difference: true, ..Made::default() }]));
        assert!(text.contains("the driver does not list the process"), "{text}");
    }

    #[test]
    fn no_columns_without_a_need() {
        let text = terminal(&grid(&[Made::default(), Made { row: 1, ..Made::default() }]));
        assert!(!text.contains("rate") && !text.contains("base MiB") && !text.contains("by task"), "{text}");
    }

    #[test]
    fn latex_is_escaped() {
        assert_eq!(escape("q_proj & 5 %"), "q\\_proj \\& 5 \\%");
    }
}
