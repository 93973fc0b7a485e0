//! Tables in LaTeX: floats that stand in a paper as they are.

use std::fmt::Write;

use super::by_task;
use super::content::{Content, Entry, Heading, Line, Rank, Shown};
use super::notes::{Mark, Note, notes, title};
use crate::grid::Grid;
use crate::options::Columns;

/// Width of a page's text in points that a table has to fit into: that of `article`, which is narrow.
const PAGE: f64 = 345.0;

/// Points that a character takes on average, in \small and in \footnotesize, and the space between two columns.
const SMALL: f64 = 4.6;
const FOOTNOTE: f64 = 4.1;
const GAP: f64 = 8.0;

/// The table in LaTeX, a float with caption, label and notes. It is turned where it would be too wide for a page, and
/// shrunk where it is too wide even then. With several seeds standard errors are left out: they are in the other forms.
pub(crate) fn latex(grid: &Grid, columns: &Columns) -> String {
    let content = Content::new(grid, columns);
    let content = if grid.seeds > 1 { content.without_errors() } else { content };
    let mut body = header(&content.header);
    let widths: Vec<Widths> = (0..content.header.len()).map(|place| Widths::of(&content, place)).collect();
    let mut family = content.lines.first().map(|line| line.family);
    let ruled = content.by_family || in_one_piece(&content.lines);
    for (row, line) in content.lines.iter().enumerate() {
        if ruled && row > 0 && family != Some(line.family) {
            body.push_str("\\midrule\n");
        }
        if content.by_family && (row == 0 || family != Some(line.family)) {
            let columns = content.header.len() + 1;
            let _ =
                writeln!(body, "\\multicolumn{{{columns}}}{{l}}{{\\emph{{{}}}}} \\\\", escape(line.family));
        }
        family = Some(line.family);
        let cells = line.cells.iter().zip(&widths).map(|(entry, widths)| widths.text(entry));
        let all: Vec<String> = std::iter::once(escape(line.label)).chain(cells).collect();
        let _ = writeln!(body, "{} \\\\", all.join(" & "));
    }
    let label = content.lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0);
    let characters = label + widths.iter().map(|widths| widths.characters).sum::<usize>();
    let name = slug(&grid.name);
    let mut text = Float {
        caption: escape(&title(grid, &content)),
        label: format!("tab:{name}"),
        columns: content.header.len(),
        characters,
        body,
        notes: notes(grid, &content),
    }
    .text();
    if let Some(lines) = by_task::lines(grid) {
        text.push('\n');
        text.push_str(&plain(&lines, escape(&by_task::title(grid)), format!("tab:{name}-by-task")));
    }
    let packages = "% needs \\usepackage{booktabs,threeparttable,adjustbox,rotating}\n";
    let foreign = text.chars().any(|c| !c.is_ascii() && !('\u{a0}'..='\u{17f}').contains(&c));
    let engine = if foreign { "% and, for some of its characters, XeLaTeX or LuaLaTeX\n" } else { "" };
    format!("{packages}{engine}{text}")
}

/// A table of texts.
fn plain(lines: &[Vec<String>], caption: String, label: String) -> String {
    let heading = |name: &String| Heading { name: name.clone(), unit: String::new() };
    let mut body = header(&lines[0][1..].iter().map(heading).collect::<Vec<_>>());
    for line in &lines[1..] {
        let cells: Vec<String> = line.iter().map(|cell| escape(cell)).collect();
        let _ = writeln!(body, "{} \\\\", cells.join(" & "));
    }
    let widest = |place: usize| lines.iter().map(|line| line[place].chars().count()).max().unwrap_or(0);
    let characters = (0..lines[0].len()).map(widest).sum();
    Float { caption, label, columns: lines[0].len() - 1, characters, body, notes: Vec::new() }.text()
}

/// A table with all that stands around it.
struct Float {
    caption: String,
    label: String,
    /// Columns beside the first.
    columns: usize,
    /// Characters of its widest lines.
    characters: usize,
    body: String,
    notes: Vec<Note>,
}

impl Float {
    fn text(&self) -> String {
        let width = |size: f64| self.characters as f64 * size + self.columns as f64 * GAP;
        let font = if width(SMALL) <= PAGE { "\\small" } else { "\\footnotesize" };
        // a little too wide is shrunk a little
        let turned = width(FOOTNOTE) > 1.2 * PAGE;
        let (float, height) =
            if turned { ("sidewaystable", "\\textwidth") } else { ("table", "\\textheight") };
        let mut text = format!(
            "\\begin{{{float}}}\n\\centering\n{font}\n\\setlength{{\\tabcolsep}}{{{}pt}}\n",
            GAP / 2.0
        );
        let _ = writeln!(text, "\\begin{{adjustbox}}{{max width=\\linewidth, max totalheight={height}}}");
        let _ = writeln!(
            text,
            "\\begin{{threeparttable}}\n\\caption{{{}}}\n\\label{{{}}}",
            self.caption, self.label
        );
        let columns = "r".repeat(self.columns);
        let _ = writeln!(text, "\\begin{{tabular}}{{@{{}}l{columns}@{{}}}}\n\\toprule");
        let _ = writeln!(text, "{}\\bottomrule\n\\end{{tabular}}", self.body);
        if !self.notes.is_empty() {
            text.push_str("\\begin{tablenotes}[para,flushleft]\\scriptsize\n");
            for note in &self.notes {
                let _ = writeln!(text, "{};", item(note));
            }
            // the last is followed by nothing
            text.truncate(text.len() - 2);
            text.push_str(".\n\\end{tablenotes}\n");
        }
        let _ = writeln!(text, "\\end{{threeparttable}}\n\\end{{adjustbox}}\n\\end{{{float}}}");
        text
    }
}

fn item(note: &Note) -> String {
    let text = escape(&note.text);
    let mark = match note.mark {
        Mark::None | Mark::Seeds => return format!("\\item {text}"),
        Mark::Best => return format!("\\item \\textbf{{bold}}: {text}"),
        Mark::Second => return format!("\\item \\underline{{underlined}}: {text}"),
        Mark::Deviation => "$\\pm$",
        Mark::Error => "($\\pm$)",
        Mark::Tied => TIED,
        Mark::Edge => "\\textasciicircum",
        Mark::Conditions => CONDITIONS,
    };
    format!("\\item[{mark}] {text}")
}

const TIED: &str = "$^{*}$";
const CONDITIONS: &str = "$^{\\dagger}$";

/// The head of a table: names, and below them units, where there are any.
fn header(headings: &[Heading]) -> String {
    let row = |first: &str, texts: &mut dyn Iterator<Item = &String>| {
        let cells = texts.map(|text| format!("\\multicolumn{{1}}{{c}}{{{}}}", escape(text)));
        std::iter::once(first.to_owned()).chain(cells).collect::<Vec<_>>().join(" & ")
    };
    let mut text = format!("{} \\\\\n", row("method", &mut headings.iter().map(|heading| &heading.name)));
    if headings.iter().any(|heading| !heading.unit.is_empty()) {
        let _ = writeln!(text, "{} \\\\", row("", &mut headings.iter().map(|heading| &heading.unit)));
    }
    text + "\\midrule\n"
}

/// Whether each family's lines follow each other, and there is more than one to set apart.
fn in_one_piece(lines: &[Line<'_>]) -> bool {
    let mut families: Vec<&str> = lines.iter().map(|line| line.family).collect();
    families.dedup();
    let pieces = families.len();
    families.sort_unstable();
    families.dedup();
    pieces == families.len() && (2..lines.len()).contains(&pieces)
}

/// What a column's cells have in common: parts that some have leave room in the others, so that numbers stand below each
/// other.
#[derive(Default)]
struct Widths {
    deviation: usize,
    error: usize,
    tied: bool,
    missing: String,
    other: bool,
    /// Of the widest text.
    characters: usize,
}

impl Widths {
    fn of(content: &Content<'_>, place: usize) -> Self {
        let mut widths = Self::default();
        let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
        let mut number = 0;
        for line in &content.lines {
            match &line.cells[place] {
                Entry::Text(text, other) => {
                    widths.other |= other;
                    number = number.max(text.chars().count());
                }
                Entry::Score(shown) => {
                    number = number.max(shown.mean.chars().count());
                    widths.deviation = widths.deviation.max(length(&shown.deviation));
                    widths.error = widths.error.max(length(&shown.error));
                    widths.tied |= shown.tied;
                    let missing = shown.missing();
                    if missing.len() > widths.missing.len() {
                        widths.missing = missing;
                    }
                }
            }
        }
        let heading = &content.header[place];
        // what follows the mean is set smaller
        let beside = [widths.deviation, widths.error].into_iter().filter(|part| *part > 0);
        let small: usize = beside.map(|part| part + 2).sum::<usize>() * 3 / 4;
        let all = number + small + widths.missing.len() + usize::from(widths.tied || widths.other);
        widths.characters = all.max(heading.name.chars().count()).max(heading.unit.chars().count());
        widths
    }

    fn text(&self, entry: &Entry) -> String {
        match entry {
            Entry::Text(text, other) => {
                format!("{}{}", escape(text), present(CONDITIONS, *other, self.other))
            }
            Entry::Score(shown) => self.score(shown),
        }
    }

    fn score(&self, shown: &Shown) -> String {
        let mut text = match shown.rank {
            Rank::Best => format!("\\textbf{{{}}}", shown.mean),
            Rank::Second => format!("\\underline{{{}}}", shown.mean),
            Rank::Other => escape(&shown.mean),
        };
        let parts = [(&shown.deviation, self.deviation, "", ""), (&shown.error, self.error, "(", ")")];
        for (part, width, open, close) in parts {
            if width == 0 {
                continue;
            }
            let value = part.clone().unwrap_or_default();
            let room = "0".repeat(width - value.chars().count());
            let room = if room.is_empty() { room } else { format!("\\phantom{{{room}}}") };
            let number = format!("{open}$\\pm${value}{close}");
            let number = if part.is_some() { number } else { format!("\\phantom{{{number}}}") };
            let _ = write!(text, "\\,{{\\scriptsize {room}{number}}}");
        }
        text.push_str(&present(TIED, shown.tied, self.tied));
        let missing = shown.missing();
        if !missing.is_empty() {
            let _ = write!(text, "\\,{}", escape(&missing));
        } else if !self.missing.is_empty() {
            let _ = write!(text, "\\phantom{{\\,{}}}", escape(&self.missing));
        }
        text
    }
}

/// `mark`, or room for it where others of the column have it.
fn present(mark: &str, here: bool, somewhere: bool) -> String {
    match (here, somewhere) {
        (true, _) => mark.to_owned(),
        (false, true) => format!("\\phantom{{{mark}}}"),
        (false, false) => String::new(),
    }
}

/// A name that can be part of a label.
fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// Characters that LaTeX's own fonts have under other names.
const SYMBOLS: [(char, &str); 28] = [
    ('±', "$\\pm$"),
    ('×', "$\\times$"),
    ('·', "$\\cdot$"),
    ('→', "$\\rightarrow$"),
    ('←', "$\\leftarrow$"),
    ('≤', "$\\leq$"),
    ('≥', "$\\geq$"),
    ('≠', "$\\neq$"),
    ('≈', "$\\approx$"),
    ('−', "$-$"),
    ('∞', "$\\infty$"),
    ('†', "\\dag{}"),
    ('…', "\\dots{}"),
    ('–', "--"),
    ('—', "---"),
    ('α', "$\\alpha$"),
    ('β', "$\\beta$"),
    ('γ', "$\\gamma$"),
    ('δ', "$\\delta$"),
    ('ε', "$\\varepsilon$"),
    ('η', "$\\eta$"),
    ('λ', "$\\lambda$"),
    ('μ', "$\\mu$"),
    ('µ', "$\\mu$"),
    ('ρ', "$\\rho$"),
    ('σ', "$\\sigma$"),
    ('τ', "$\\tau$"),
    ('Δ', "$\\Delta$"),
];

/// Text that means nothing but itself in LaTeX.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '"' => out.push_str("\\textquotedbl{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => match SYMBOLS.iter().find(|(symbol, _)| *symbol == c) {
                Some((_, name)) => out.push_str(name),
                None => out.push(c),
            },
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_is_escaped() {
        assert_eq!(escape("q_proj & 5 %"), "q\\_proj \\& 5 \\%");
        assert_eq!(escape("r=12→8"), "r=12$\\rightarrow$8");
    }

    #[test]
    fn numbers_stand_below_each_other() {
        let widths = Widths { deviation: 4, tied: true, ..Widths::default() };
        let shown = Shown {
            mean: "75.9".to_owned(),
            rank: Rank::Best,
            deviation: Some("2.2".to_owned()),
            ..Shown::default()
        };
        let text = widths.score(&shown);
        assert_eq!(text, "\\textbf{75.9}\\,{\\scriptsize \\phantom{0}$\\pm$2.2}\\phantom{$^{*}$}");
        let second = Shown { rank: Rank::Second, tied: true, ..shown };
        assert!(widths.score(&second).starts_with("\\underline{75.9}"));
        assert!(widths.score(&second).ends_with("}$^{*}$"));
    }
}
