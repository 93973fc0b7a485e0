use std::fmt::Write;

use super::by_task;
use super::content::{Content, Entry, Heading, Rank, Shown};
use super::notes::{Mark, Note, notes, title};
use crate::grid::Grid;
use crate::options::Columns;

/// The table in Markdown.
pub(crate) fn markdown(grid: &Grid, columns: &Columns) -> String {
    let content = Content::new(grid, columns);
    let mut text = format!("{}\n\n", escape(&title(grid, &content)));
    let names = content.header.iter().map(Heading::line);
    let header: Vec<String> = std::iter::once("method".to_owned()).chain(names).collect();
    text.push_str(&line(header.iter().map(|name| escape(name))));
    text.push_str(&rule(header.len()));
    let mut family = None;
    for row in &content.lines {
        if content.by_family && family != Some(row.family) {
            family = Some(row.family);
            let empty = std::iter::repeat_n(String::new(), header.len() - 1);
            text.push_str(&line(std::iter::once(format!("*{}*", escape(row.family))).chain(empty)));
        }
        let cells = row.cells.iter().map(|entry| match entry {
            Entry::Text(text, other) => format!("{}{}", escape(text), if *other { "†" } else { "" }),
            Entry::Score(shown) => score(shown),
        });
        text.push_str(&line(std::iter::once(escape(row.label)).chain(cells)));
    }
    text.push('\n');
    for note in notes(grid, &content) {
        // two blanks end a line
        let _ = writeln!(text, "{}  ", with_mark(&note));
    }
    if let Some(lines) = by_task::lines(grid) {
        let _ = write!(text, "\n{}\n\n", by_task::title(grid));
        text.push_str(&line(lines[0].iter().map(|cell| escape(cell))));
        text.push_str(&rule(lines[0].len()));
        text.extend(lines[1..].iter().map(|cells| line(cells.iter().map(|cell| escape(cell)))));
    }
    text
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn rule(columns: usize) -> String {
    format!("| --- |{}\n", " ---: |".repeat(columns - 1))
}

fn score(shown: &Shown) -> String {
    let mut text = match shown.rank {
        Rank::Best => format!("**{}**", shown.mean),
        Rank::Second => format!("<u>{}</u>", shown.mean),
        Rank::Other => shown.mean.clone(),
    };
    if let Some(deviation) = &shown.deviation {
        let _ = write!(text, " ±{deviation}");
    }
    if let Some(error) = &shown.error {
        let _ = write!(text, " (±{error})");
    }
    if shown.tied {
        text.push_str(" \\*");
    }
    let missing = shown.missing();
    if !missing.is_empty() {
        let _ = write!(text, " {missing}");
    }
    text
}

fn with_mark(note: &Note) -> String {
    let text = escape(&note.text);
    let mark = match note.mark {
        Mark::None | Mark::Seeds => return text,
        Mark::Deviation => "±",
        Mark::Error => "(±)",
        Mark::Best => "**bold**",
        Mark::Second => "<u>underlined</u>",
        Mark::Tied => "\\*",
        Mark::Edge => "^",
        Mark::Conditions => "†",
    };
    match note.mark {
        Mark::Best | Mark::Second => format!("{mark}: {text}"),
        _ => format!("{mark} {text}"),
    }
}

/// Text that means nothing but itself in Markdown, within a table and without.
fn escape(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        // within a word an underscore is one
        let in_word =
            before.is_alphanumeric() && characters.peek().is_some_and(|next| next.is_alphanumeric());
        match c {
            '_' if in_word => out.push(c),
            '\\' | '|' | '*' | '_' | '`' | '<' | '[' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_shown_as_it_is() {
        assert_eq!(escape("a | b"), "a \\| b");
        assert_eq!(escape("q_proj *x* _y_"), "q_proj \\*x\\* \\_y\\_");
        assert_eq!(escape("<b>\n"), "\\<b> ");
    }

    #[test]
    fn bold_and_the_mark_behind_it_do_not_touch() {
        let shown = Shown { mean: "260.5".to_owned(), rank: Rank::Best, tied: true, ..Shown::default() };
        assert_eq!(score(&shown), "**260.5** \\*");
        let second = Shown { rank: Rank::Second, tied: false, deviation: Some("1.0".to_owned()), ..shown };
        assert_eq!(score(&second), "<u>260.5</u> ±1.0");
    }
}
