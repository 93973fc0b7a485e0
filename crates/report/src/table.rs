//! The comparison table in the manner of Xu et al. (arXiv 2312.12148): methods as rows.

use std::fmt::Write;

use crate::grid::{Cell, Grid, Row, Task};

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
    let tasks = grid.tasks.iter().map(|task| format!("{} ({})", task.name, task.short()));
    let means = has_mean(grid).then(|| "mean".to_owned());
    let start = ["method", "trained", "%"].map(str::to_owned);
    let end = [memory, "tokens/s"].map(str::to_owned);
    start.into_iter().chain(tasks).chain(means).chain(end).collect()
}

fn has_mean(grid: &Grid) -> bool {
    grid.tasks.len() > 1 && grid.tasks.iter().all(|task| task.in_points)
}

fn cells(grid: &Grid, row: &Row, style: &Style) -> Vec<String> {
    let mut out = vec![row.label.clone(), grouped(row.trained), percent(row.percent)];
    out.extend(row.cells.iter().zip(&grid.tasks).map(|(cell, task)| score(cell, task, style)));
    if has_mean(grid) {
        out.push(row.mean(&grid.tasks).map_or("-".to_owned(), |mean| format!("{mean:.1}")));
    }
    out.extend([mebibytes(row.peak_memory), rate(row.tokens_per_second)]);
    out
}

fn title(grid: &Grid) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (tasks, seeds) = (plural(grid.tasks.len(), "task"), plural(grid.seeds, "seed"));
    format!("{}: {}, {tasks}, {seeds}, {}", grid.name, grid.model, grid.place)
}

fn legend(grid: &Grid) -> Vec<String> {
    let mut lines = vec![match grid.seeds {
        1 => "(±) standard error of the test set; one seed: no spread over seeds".to_owned(),
        _ => "± sample deviation over seeds; (±) standard error of the test set".to_owned(),
    }];
    if grid.rows.iter().any(|row| row.cells.iter().any(|cell| cell.tied.is_some())) {
        lines.push(
            "* not distinguishable from the best of the column (paired bootstrap over items, Holm, 5 %)"
                .to_owned(),
        );
    }
    lines.push(match grid.on_device {
        true => "GPU MiB: NVML's peak of the process while training".to_owned(),
        false => "peak MiB: the most the process had allocated on the host while training; tokens/s without padding".to_owned(),
    });
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            if let Some((short, why)) = &cell.failure {
                lines.push(format!("{short}: {} on {}: {why}", row.label, task.name));
            }
        }
    }
    lines
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
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace("* |", "\\* |"));
    let mut text = format!("{}\n\n{}", title(grid), line(&header));
    text.push_str(&format!("| --- |{}\n", " ---: |".repeat(header.len() - 1)));
    for row in &grid.rows {
        text.push_str(&line(&cells(grid, row, &style)));
    }
    text.push('\n');
    for note in legend(grid) {
        let _ = writeln!(text, "{}  ", note.replacen('*', "\\*", 1));
    }
    text
}

/// The table in LaTeX, for the package `booktabs`.
pub(crate) fn latex(grid: &Grid) -> String {
    let style = Style { best: ["\\textbf{", "}"], plus_minus: "$\\pm$", errors: true };
    let header: Vec<String> = header(grid).iter().map(|cell| escape(cell)).collect();
    let mut text = format!("% {}\n", title(grid));
    let _ = writeln!(text, "\\begin{{tabular}}{{l{}}}\n\\toprule", "r".repeat(header.len() - 1));
    let _ = writeln!(text, "{} \\\\\n\\midrule", header.join(" & "));
    for row in &grid.rows {
        let mut cells = cells(grid, row, &style);
        cells[0] = escape(&cells[0]);
        let _ = writeln!(text, "{} \\\\", cells.join(" & ").replace(" *", "\\rlap{$^{*}$}"));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
    for note in legend(grid) {
        let _ = writeln!(text, "% {note}");
    }
    text
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
    let header = [
        "method",
        "family",
        "trained_parameters",
        "percent",
        "task",
        "metric",
        "seeds",
        "mean",
        "deviation_over_seeds",
        "standard_error",
        "tied_with_best",
        "peak_memory_bytes",
        "tokens_per_second",
        "failure",
    ];
    // writing into memory cannot fail
    let _ = writer.write_record(header);
    let text = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for row in &grid.rows {
        for (cell, task) in row.cells.iter().zip(&grid.tasks) {
            let tied = if cell.best { Some(true) } else { cell.tied };
            let _ = writer.write_record([
                row.label.clone(),
                row.family.clone(),
                row.trained.to_string(),
                row.percent.to_string(),
                task.name.clone(),
                task.metric.clone(),
                cell.scores.len().to_string(),
                text(cell.mean()),
                text(cell.deviation()),
                text(cell.standard_error),
                tied.map(|tied| tied.to_string()).unwrap_or_default(),
                text(row.peak_memory),
                text(row.tokens_per_second),
                cell.failure.as_ref().map(|(short, why)| format!("{short}: {why}")).unwrap_or_default(),
            ]);
        }
    }
    writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn latex_is_escaped() {
        assert_eq!(escape("q_proj & 5 %"), "q\\_proj \\& 5 \\%");
    }
}
