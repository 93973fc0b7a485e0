//! `report.html`: the records as one page to sort, filter and look into. It is a single file that asks the network for
//! nothing. Its data is JSON in a `<script>` that no browser runs, and its policy lets only the scripts run whose digest
//! it names: what a label or a message says stays text.
//!
//! Charts are drawn by Chart.js (see `assets/chart.js/README.md` for why).

#[cfg(test)]
mod browser;
mod columns;
mod curves;
mod data;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use peftlab_record::RecordError;
use sha2::{Digest, Sha256};

use crate::grid::Grid;
use crate::options::Columns;
use crate::table::Around;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const CHART: &str = include_str!("../../../assets/chart.js/chart.umd.min.js");
const LICENCES: [&str; 2] = [
    include_str!("../../../assets/chart.js/LICENSE.md"),
    include_str!("../../../assets/chart.js/LICENSE-color.md"),
];
/// In the order in which they need each other.
const SCRIPTS: [&str; 7] = [
    include_str!("page/core.js"),
    include_str!("page/table.js"),
    include_str!("page/charts.js"),
    include_str!("page/plots.js"),
    include_str!("page/curves.js"),
    include_str!("page/row.js"),
    include_str!("page/main.js"),
];

/// The page of `grid`, which shows `columns` at first: the same records give the same bytes.
///
/// # Errors
/// Where the table of a run's steps is there and cannot be read.
pub(crate) fn page(grid: &Grid, columns: &Columns) -> Result<String, RecordError> {
    // the source map lies elsewhere, and a browser's developer tools would ask for it
    let chart: Vec<&str> = CHART.lines().filter(|line| !line.starts_with("//# sourceMappingURL")).collect();
    let chart = chart.join("\n");
    let script = SCRIPTS.concat();
    let policy = format!(
        "default-src 'none'; script-src {} {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        digest(&chart),
        digest(&script),
        digest(STYLE)
    );
    let around = Around::new(grid, columns);
    Ok(fill(
        TEMPLATE,
        &[
            ("policy", &policy),
            ("name", &escaped(&grid.name)),
            ("title", &escaped(&around.title)),
            ("style", STYLE),
            ("data", &in_script(&data::data(grid, columns, &around)?.to_string())),
            ("chart", &chart),
            ("script", &script),
            ("licences", &escaped(&LICENCES.join("\n"))),
        ],
    ))
}

/// How a content security policy names a script or a style.
fn digest(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// Puts values where `template` says `{{name}}`, in one pass: a value that looks like a place is left as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        rest = match after.split_once("}}") {
            Some((name, rest)) => {
                out.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value));
                rest
            }
            None => after,
        };
    }
    out + rest
}

/// Text for HTML, in an element or in a quoted attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// JSON for a `<script>`. All of these stand in strings alone, where JSON may write them by number: nothing is left that
/// could end the element or begin another.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
