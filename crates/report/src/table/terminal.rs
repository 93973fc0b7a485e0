use std::fmt::Write;

use super::by_task;
use super::content::{Content, Entry, Heading, Rank, Shown};
use super::notes::{Mark, Note, notes, title};
use crate::grid::Grid;
use crate::options::{Column, Columns};
use crate::text::{table, wrapped};

/// Columns that go first where a terminal is too narrow for all; those that are asked for by name stay.
const SPARE: [Column; 6] =
    [Column::Step, Column::Merged, Column::Base, Column::Loss, Column::Percent, Column::Rate];

/// The table as a terminal with `width` columns of characters shows it. Where it is too narrow, standard errors are left
/// out, then columns; what is still too long goes on in the next line.
pub(crate) fn terminal(grid: &Grid, columns: &Columns, width: usize) -> String {
    let mut columns = columns.clone();
    let mut content = Content::new(grid, &columns);
    let mut narrow = lines(&content, None);
    let fits = |text: &str| text.lines().all(|line| line.chars().count() <= width);
    let mut spared: Vec<String> = Vec::new();
    if !fits(&narrow) {
        content = content.without_errors();
        narrow = lines(&content, None);
    }
    for spare in if columns.chosen { [].iter() } else { SPARE.iter() } {
        if fits(&narrow) {
            break;
        }
        if !columns.shown.contains(spare) {
            continue;
        }
        let before: Vec<String> = content.header.iter().map(Heading::line).collect();
        columns.shown.retain(|column| column != spare);
        content = Content::new(grid, &columns).without_errors();
        spared.extend(before.into_iter().filter(|name| !content.header.iter().any(|h| h.line() == *name)));
        narrow = lines(&content, None);
    }
    if !fits(&narrow) {
        narrow = lines(&content, Some(width));
    }
    let mut text = format!("{}\n\n{narrow}\n", wrapped(&title(grid, &content), width));
    for note in notes(grid, &content) {
        let _ = writeln!(text, "{}", wrapped(&with_mark(&note), width));
    }
    if !spared.is_empty() {
        let left_out = format!("not shown for want of width, but in table.md: {}", spared.join(", "));
        let _ = writeln!(text, "{}", wrapped(&left_out, width));
    }
    if let Some(lines) = by_task::lines(grid) {
        let by_task = table(&lines[0], lines[1..].to_vec(), 1, Some(width));
        let _ = write!(text, "\n{}\n\n{by_task}", wrapped(&by_task::title(grid), width));
    }
    text
}

fn with_mark(note: &Note) -> String {
    let mark = match note.mark {
        Mark::None | Mark::Seeds => return note.text.clone(),
        Mark::Deviation => "±",
        Mark::Error => "(±)",
        Mark::Best => "¹",
        Mark::Second => "²",
        Mark::Tied => "*",
        Mark::Edge => "^",
        Mark::Conditions => "†",
    };
    format!("{mark} {}", note.text)
}

fn lines(content: &Content<'_>, width: Option<usize>) -> String {
    let mut header = vec!["method".to_owned()];
    header.extend(content.header.iter().map(|heading| match heading.unit.as_str() {
        "" => heading.name.clone(),
        unit => format!("{}\n({unit})", heading.name),
    }));
    let columns: Vec<Vec<String>> = (0..content.header.len())
        .map(|place| column(&content.lines.iter().map(|line| &line.cells[place]).collect::<Vec<_>>()))
        .collect();
    let mut lines = Vec::new();
    let mut family = None;
    for (row, line) in content.lines.iter().enumerate() {
        if content.by_family && family != Some(line.family) {
            family = Some(line.family);
            let empty = vec![String::new(); columns.len()];
            lines.push([vec![format!("[{}]", line.family)], empty].concat());
        }
        let cells = columns.iter().map(|column| column[row].clone());
        lines.push(std::iter::once(line.label.to_owned()).chain(cells).collect());
    }
    table(&header, lines, 1, width)
}

/// The texts of a column. Parts of scores stand below each other: means, deviations, errors, marks.
fn column(entries: &[&Entry]) -> Vec<String> {
    let parts: Vec<Vec<String>> = entries.iter().map(|entry| parts(entry)).collect();
    let count = parts.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..count)
        .map(|part| parts.iter().filter_map(|all| all.get(part)).map(wide).max().unwrap_or(0))
        .collect();
    let line = |parts: &Vec<String>| -> String {
        let mut text = String::new();
        for (place, (part, width)) in parts.iter().zip(&widths).enumerate() {
            // marks stand close behind what they mark, all else is flush right
            match place % 2 {
                0 => {
                    let _ = write!(text, "{part:>width$}");
                }
                _ => {
                    let _ = write!(text, "{part:<width$}");
                }
            }
        }
        text
    };
    parts.iter().map(line).collect()
}

/// Numbers of an entry, each followed by what is written close behind it.
fn parts(entry: &Entry) -> Vec<String> {
    match entry {
        Entry::Text(text, other) => vec![text.clone(), if *other { "†" } else { "" }.to_owned()],
        Entry::Score(shown) => score(shown),
    }
}

fn score(shown: &Shown) -> Vec<String> {
    let rank = match shown.rank {
        Rank::Best => "¹",
        Rank::Second => "²",
        Rank::Other => "",
    };
    let tied = if shown.tied { " *" } else { "" };
    // what became of the others stands below the table
    let missing = shown.seeds.map(|(found, planned)| format!(" ({found}/{planned})")).unwrap_or_default();
    vec![
        shown.mean.clone(),
        rank.to_owned(),
        shown.deviation.as_ref().map(|deviation| format!(" ±{deviation}")).unwrap_or_default(),
        String::new(),
        shown.error.as_ref().map(|error| format!(" (±{error})")).unwrap_or_default(),
        format!("{tied}{missing}"),
    ]
}
