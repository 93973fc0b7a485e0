//! How rows are told apart: a colour for each family, a shape for each row of it.

use super::canvas::{Anchor, Canvas, Colour, WIDTH, Xy};
use super::font;
use crate::grid::{Grid, Row, Task};

/// The colours of Okabe and Ito, which colour-blind readers tell apart; their yellow, which is not seen on white, is
/// darkened.
pub(super) const COLOURS: [Colour; 8] = [
    Colour::new(0, 114, 178),
    Colour::new(213, 94, 0),
    Colour::new(0, 158, 115),
    Colour::new(204, 121, 167),
    Colour::new(230, 159, 0),
    Colour::new(86, 180, 233),
    Colour::new(0, 0, 0),
    Colour::new(150, 140, 20),
];
pub(super) const BLACK: Colour = Colour::new(0, 0, 0);
pub(super) const GREY: Colour = Colour::new(100, 100, 100);
pub(super) const LIGHT: Colour = Colour::new(225, 225, 225);
pub(super) const WHITE: Colour = Colour::new(255, 255, 255);

/// Sizes of type.
pub(super) const SMALL: f64 = 6.5;
pub(super) const NORMAL: f64 = 7.5;
pub(super) const TITLE: f64 = 9.0;

/// Half the size of a marker.
pub(super) const RADIUS: f64 = 2.8;

/// How a row is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) colour: Colour,
    /// Place among the rows of the family.
    shape: usize,
}

/// How every row is drawn.
pub(super) struct Looks {
    /// In the order in which rows name them.
    pub(super) families: Vec<String>,
    pub(super) rows: Vec<Look>,
}

impl Looks {
    pub(super) fn new(rows: &[Row]) -> Self {
        let mut families: Vec<String> = Vec::new();
        let mut members: Vec<usize> = Vec::new();
        let mut looks = Vec::new();
        for row in rows {
            let family = families.iter().position(|family| *family == row.family).unwrap_or_else(|| {
                families.push(row.family.clone());
                members.push(0);
                families.len() - 1
            });
            looks.push(Look { colour: COLOURS[family % COLOURS.len()], shape: members[family] });
            members[family] += 1;
        }
        Self { families, rows: looks }
    }

    fn colour(family: usize) -> Colour {
        COLOURS[family % COLOURS.len()]
    }
}

/// A regular polygon or star around the origin, with radii that take turns.
fn round(corners: usize, radii: [f64; 2], turn: f64) -> Vec<Xy> {
    let angle = |i: usize| (turn + i as f64 / corners as f64) * std::f64::consts::TAU;
    (0..corners).map(|i| (radii[i % 2] * angle(i).sin(), -radii[i % 2] * angle(i).cos())).collect()
}

/// Draws a row's marker: one of seven shapes, and again hollow.
pub(super) fn marker(canvas: &mut Canvas, at: Xy, look: Look) {
    let r = RADIUS;
    let shape = match look.shape % 7 {
        0 => round(24, [r, r], 0.0),
        1 => round(4, [1.25 * r, 1.25 * r], 0.125),
        2 => round(3, [1.35 * r, 1.35 * r], 0.0),
        3 => round(4, [1.3 * r, 1.3 * r], 0.0),
        4 => round(3, [1.35 * r, 1.35 * r], 0.5),
        5 => round(10, [1.45 * r, 0.6 * r], 0.0),
        _ => round(8, [1.45 * r, 0.5 * r], 0.125),
    };
    let placed =
        |scale: f64| -> Vec<Xy> { shape.iter().map(|(x, y)| (at.0 + scale * x, at.1 + scale * y)).collect() };
    // a white rim keeps markers apart that touch
    canvas.area(placed(1.25), WHITE);
    canvas.area(placed(1.0), look.colour);
    if (look.shape / 7) % 2 == 1 {
        canvas.area(placed(0.55), WHITE);
    }
}

/// Families and their colours in rows from `top` on; the height that they took.
pub(super) fn families(canvas: &mut Canvas, looks: &Looks, top: f64) -> f64 {
    if looks.families.len() < 2 {
        return 0.0;
    }
    let (mut x, mut y) = (0.0, top);
    for (i, family) in looks.families.iter().enumerate() {
        let name = font::fit(family, NORMAL, WIDTH / 2.0);
        let width = font::width(&name, NORMAL) + 26.0;
        if x > 0.0 && x + width > WIDTH {
            (x, y) = (0.0, y + 12.0);
        }
        canvas.rectangle((x + 2.0, y + 2.5), (7.0, 7.0), Looks::colour(i));
        canvas.text(&name, (x + 12.0, y + 8.8), NORMAL, Anchor::Start, BLACK);
        x += width;
    }
    y + 14.0 - top
}

/// Rows with their markers, and numbers where points have them, in columns from `top` on; the height that they took.
pub(super) fn rows(canvas: &mut Canvas, grid: &Grid, looks: &Looks, top: f64, numbered: bool) -> f64 {
    let columns = 3;
    let (width, leading) = (WIDTH / columns as f64, 10.0);
    let lines = grid.rows.len().div_ceil(columns);
    for (i, row) in grid.rows.iter().enumerate() {
        let (x, y) = (width * (i / lines) as f64, top + leading * (i % lines) as f64);
        marker(canvas, (x + 5.0, y + 5.0), looks.rows[i]);
        let number = if numbered { format!("{}  ", i + 1) } else { String::new() };
        let label = font::fit(&format!("{number}{}", row.label), SMALL, width - 18.0);
        canvas.text(&label, (x + 12.0, y + 7.4), SMALL, Anchor::Start, BLACK);
    }
    leading * lines as f64 + 4.0
}

/// What the scores of a task are, with their unit and split.
pub(super) fn score(task: &Task) -> String {
    let name = match task.metric.as_str() {
        "f1" => "F1",
        "macro-f1" => "macro F1",
        "pearson" => "Pearson's r",
        "spearman" => "Spearman's rho",
        "matthews" => "Matthews' correlation",
        "mse" => "mean squared error",
        other => other,
    };
    let unit = match (task.in_points, task.metric.as_str()) {
        (false, _) => "",
        (true, "accuracy" | "f1" | "macro-f1") => ", %",
        (true, _) => " × 100, points",
    };
    let better = if task.higher_is_better { "higher" } else { "lower" };
    format!("{name}{unit} ({}, {better} is better)", task.split())
}

/// What shows over seeds, in words.
pub(super) fn seeds(grid: &Grid, many: &str) -> String {
    match grid.seeds {
        0 | 1 => "one seed: nothing is known of the spread over seeds".to_owned(),
        seeds => many.replace("{}", &seeds.to_string()),
    }
}

/// Draws the picture's title; where the rest begins.
pub(super) fn title(canvas: &mut Canvas, grid: &Grid, what: &str) -> f64 {
    let text = font::fit(&format!("{}: {what}", grid.name), TITLE, WIDTH);
    canvas.text(&text, (0.0, 10.0), TITLE, Anchor::Start, BLACK);
    16.0
}
