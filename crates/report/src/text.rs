//! Tables as a terminal shows them.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, TableComponent};

/// Characters that a column of names keeps where a table has to be narrower than its contents.
const LEAST: u16 = 12;

/// A table of `lines` below `header`, the first `names` columns flush left and the others right. It is at most `width`
/// characters wide, where there is one: what is too long goes on in the next line.
pub fn table(
    header: &[String],
    lines: impl IntoIterator<Item = Vec<String>>,
    names: usize,
    width: Option<usize>,
) -> String {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(header.iter().enumerate().map(|(place, text)| aligned(place, text, names)));
    for line in lines {
        table.add_row(line.iter().enumerate().map(|(place, text)| aligned(place, text, names)));
    }
    for column in table.column_iter_mut() {
        // one more stands between columns
        column.set_padding((0, 1));
    }
    if let Some(column) = table.column_iter_mut().last() {
        column.set_padding((0, 0));
    }
    if let Some(width) = width {
        let width = u16::try_from(width).unwrap_or(u16::MAX);
        // names go on in the next line before numbers do, as long as something is left of them
        let widths = table.column_max_content_widths();
        let numbers: u16 = widths.iter().skip(names).map(|width| width + 2).sum();
        if width.saturating_sub(numbers) >= LEAST * names as u16 {
            for column in table.column_iter_mut().skip(names) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.trim_fmt() + "\n"
}

fn aligned(place: usize, text: &str, names: usize) -> Cell {
    let alignment = if place < names { CellAlignment::Left } else { CellAlignment::Right };
    Cell::new(text).set_alignment(alignment)
}

/// `text` in lines of at most `width` characters, the second and all after it indented.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let long = word.chars().count();
        if length > 0 && length + 1 + long > width {
            out.push_str("\n  ");
            length = 2;
        } else if length > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += long;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_no_wider_than_they_may_be() {
        let header = ["name", "number"].map(str::to_owned);
        let lines = || [["a", "1"], ["a name in words", "22"]].map(|line| line.map(str::to_owned).to_vec());
        let text = table(&header, lines(), 1, None);
        assert_eq!(text.lines().next().unwrap(), "name             number");
        assert_eq!(text.lines().nth(2).unwrap(), "a                     1");
        let narrow = table(&header, lines(), 1, Some(18));
        assert!(narrow.lines().nth(3).unwrap().ends_with("22"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 18), "{narrow}");
    }

    #[test]
    fn notes_are_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 8), "one two\n  three");
        assert_eq!(wrapped("short", 8), "short");
    }
}
