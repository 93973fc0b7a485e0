//! Losses by step: a row of panels for each family, a column for each task.

use super::canvas::{Anchor, Canvas, WIDTH, Xy};
use super::font;
use super::frame::{ABOVE, Axis, Frame, LEFT};
use super::style::{self, BLACK, COLOURS, GREY, NORMAL, SMALL};
use crate::grid::{Cell, Grid};

/// Curves in a panel; a larger family has several rows.
const CURVES: usize = 6;
/// Tasks beside each other; more are further down.
const COLUMNS: usize = 3;
/// Width of the key at the right.
const KEY: f64 = 112.0;
/// Height of a panel's frame, and of what is below it.
const FRAME: f64 = 66.0;
const BELOW: f64 = 15.0;
/// Room for the numbers of a panel that has another at its left.
const NUMBERS: f64 = 26.0;
/// Points that a curve is drawn with at most.
const POINTS: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Losses {
    Training,
    Validation,
}

/// A method's curve over seeds: its step, the least, the mean and the most.
#[derive(Clone, Debug, Default, PartialEq)]
struct Curve(Vec<(f64, [f64; 3])>);

/// Rows of one family that are drawn together.
struct Group {
    title: String,
    rows: Vec<usize>,
}

/// Families in the order in which rows name them; those of a single method share their panels.
fn groups(grid: &Grid, drawn: impl Fn(usize) -> bool) -> Vec<Group> {
    let mut families: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, row) in grid.rows.iter().enumerate().filter(|(i, _)| drawn(*i)) {
        match families.iter_mut().find(|(family, _)| *family == row.family) {
            Some((_, rows)) => rows.push(i),
            None => families.push((row.family.clone(), vec![i])),
        }
    }
    let (single, mut several): (Vec<_>, Vec<_>) = families.into_iter().partition(|(_, rows)| rows.len() == 1);
    for part in single.chunks(CURVES) {
        let names: Vec<&str> = part.iter().map(|(family, _)| family.as_str()).collect();
        several.push((names.join(", "), part.iter().flat_map(|(_, rows)| rows.clone()).collect()));
    }
    several.into_iter().flat_map(|(family, rows)| parts(&family, &rows)).collect()
}

/// A family in parts of equal size, so that none holds a single curve.
fn parts(family: &str, rows: &[usize]) -> Vec<Group> {
    let count = rows.len().div_ceil(CURVES);
    let title = |part: usize| match count {
        1 => family.to_owned(),
        _ => format!("{family}, {} of {count}", part + 1),
    };
    let parts = rows.chunks(rows.len().div_ceil(count)).enumerate();
    parts.map(|(part, rows)| Group { title: title(part), rows: rows.to_vec() }).collect()
}

/// Means over whole windows, each at its window's middle: at the ends, where no window fits, there is nothing, for a
/// window that shrinks would let the last values' noise look like a plunge.
fn smoothed(values: &[f64], window: usize) -> Vec<(f64, f64)> {
    let middle = |i: usize| (i + 1) as f64 + (window - 1) as f64 / 2.0;
    let windows = values.windows(window).enumerate();
    windows.map(|(i, part)| (middle(i), part.iter().sum::<f64>() / window as f64)).collect()
}

/// Steps that are averaged: a twentieth.
fn window(steps: usize) -> usize {
    (steps / 20).max(1)
}

/// Curves of runs, as far as the shortest goes, as one.
fn over_seeds(runs: &[Vec<(f64, f64)>]) -> Curve {
    let length = runs.iter().map(Vec::len).min().unwrap_or(0);
    let at = |i: usize| {
        let values = || runs.iter().map(|run| run[i].1);
        let (low, high) =
            values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        (runs[0][i].0, [low, values().sum::<f64>() / runs.len() as f64, high])
    };
    let every = length.div_ceil(POINTS).max(1);
    // the last point belongs to the curve, whatever the stride
    Curve((0..length).filter(|i| i % every == 0 || i + 1 == length).map(at).collect())
}

impl Losses {
    fn curve(self, cell: &Cell) -> Curve {
        match self {
            Self::Training => {
                let runs: Vec<&Vec<_>> = cell.losses.iter().filter(|run| !run.is_empty()).collect();
                let steps = runs.iter().map(|run| run.len()).min().unwrap_or(0);
                let one = |run: &&Vec<peftlab_record::Step>| {
                    let losses: Vec<f64> = run.iter().map(|step| step.loss).collect();
                    smoothed(&losses, window(steps))
                };
                over_seeds(&runs.iter().map(one).collect::<Vec<_>>())
            }
            Self::Validation => {
                let one = |looks: &Vec<peftlab_record::Look>| -> Vec<(f64, f64)> {
                    looks.iter().map(|look| (look.step as f64, look.loss)).collect()
                };
                let runs: Vec<_> = cell.looks.iter().filter(|run| !run.is_empty()).map(one).collect();
                // seeds may have been looked at after other steps: there is a mean where all were
                let shared = |step: f64| runs.iter().all(|run| run.iter().any(|(other, _)| *other == step));
                let kept = |run: &Vec<(f64, f64)>| -> Vec<(f64, f64)> {
                    run.iter().copied().filter(|(step, _)| shared(*step)).collect()
                };
                over_seeds(&runs.iter().map(kept).collect::<Vec<_>>())
            }
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Training => "training loss",
            Self::Validation => "validation loss",
        }
    }
}

/// The picture; none where no method has a curve.
pub(super) fn draw(grid: &Grid, losses: Losses) -> Option<Canvas> {
    let curves: Vec<Vec<Curve>> =
        grid.rows.iter().map(|row| row.cells.iter().map(|cell| losses.curve(cell)).collect()).collect();
    let drawn = |curve: &Curve| curve.0.iter().filter(|(_, [_, mean, _])| mean.is_finite()).count() > 1;
    let groups = groups(grid, |row| curves[row].iter().any(drawn));
    let columns: Vec<usize> =
        (0..grid.tasks.len()).filter(|column| curves.iter().any(|row| drawn(&row[*column]))).collect();
    if groups.is_empty() {
        return None;
    }
    let mut canvas = Canvas::default();
    let mut top = style::title(&mut canvas, grid, losses.title());
    let mut cut = false;
    for part in columns.chunks(COLUMNS) {
        let beside = columns.len().min(COLUMNS) as f64;
        let width = (WIDTH - KEY - LEFT - NUMBERS * (beside - 1.0)) / beside - 8.0;
        for (g, group) in groups.iter().enumerate() {
            let last = g + 1 == groups.len();
            for (i, column) in part.iter().enumerate() {
                let all: Vec<&Curve> = curves.iter().map(|row| &row[*column]).collect();
                let own: Vec<&Curve> = group.rows.iter().map(|row| all[*row]).collect();
                let left = LEFT + (width + 8.0 + NUMBERS) * i as f64;
                let (y, above) = heights(&all);
                cut |= above;
                let steps = all.iter().flat_map(|curve| &curve.0).map(|(step, _)| *step);
                let x = Axis::linear(steps, true);
                let frame = Frame { left, top: top + ABOVE, width, height: FRAME, x, y };
                let loss = if i == 0 { losses.title() } else { "" };
                frame.draw(&mut canvas, &grid.tasks[*column].name, if last { "step" } else { "" }, loss);
                panel(&mut canvas, losses, &frame, &own);
            }
            key(&mut canvas, grid, group, (WIDTH - KEY, top));
            top += ABOVE + FRAME + BELOW + if last { 14.0 } else { 0.0 };
        }
    }
    let note = note(grid, losses, cut);
    top += 2.0 + canvas.paragraph(&note, (0.0, top + 2.0), WIDTH, SMALL, GREY);
    canvas.height = top + 4.0;
    Some(canvas)
}

fn note(grid: &Grid, losses: Losses, cut: bool) -> String {
    let spread = style::seeds(
        grid,
        "lines: mean over up to {} seeds; bands: from the lowest seed to the highest, as far as the shortest goes",
    );
    let windows = match losses {
        Losses::Training => "; each point is the mean over a twentieth of the steps, at its middle",
        Losses::Validation => "; points: looks at the validation set",
    };
    let cut = if cut { "; losses above an axis are drawn at its upper end" } else { "" };
    format!("{spread}{windows}{cut}; all panels of a task have the same axes")
}

/// The y axis of a task: where few values are far above all others, as where one method diverges, it ends below them.
fn heights(curves: &[&Curve]) -> (Axis, bool) {
    let finite = |value: &f64| value.is_finite();
    let points = curves.iter().flat_map(|curve| &curve.0);
    let mut values: Vec<f64> = points.flat_map(|(_, three)| *three).filter(finite).collect();
    values.sort_by(f64::total_cmp);
    let at =
        |share: f64| values.get((share * (values.len().max(1) - 1) as f64) as usize).copied().unwrap_or(0.0);
    let limit = at(0.9) + 2.0 * (at(0.9) - at(0.02)).max(0.05 * at(0.9).abs());
    let cut = at(1.0) > limit;
    (Axis::linear(values.iter().map(|value| value.min(limit)), false), cut)
}

fn panel(canvas: &mut Canvas, losses: Losses, frame: &Frame, own: &[&Curve]) {
    for (i, curve) in own.iter().enumerate() {
        for part in finite(curve) {
            let edge = |which: usize| part.iter().map(move |(step, three)| (*step, three[which]));
            let band = edge(0).chain(edge(2).rev()).map(|(x, y)| frame.at(x, y));
            if part.iter().any(|(_, [low, _, high])| high > low) {
                canvas.area(band.collect(), COLOURS[i].faint(15));
            }
        }
    }
    for (i, curve) in own.iter().enumerate() {
        for part in finite(curve) {
            let line: Vec<Xy> = part.iter().map(|(step, [_, mean, _])| frame.at(*step, *mean)).collect();
            if losses == Losses::Validation {
                for (x, y) in &line {
                    canvas.rectangle((x - 1.1, y - 1.1), (2.2, 2.2), COLOURS[i]);
                }
            }
            canvas.line(line, 1.0, COLOURS[i]);
        }
    }
}

/// The parts of a curve without a number that is none.
fn finite(curve: &Curve) -> impl Iterator<Item = &[(f64, [f64; 3])]> {
    let gap = |(_, three): &(f64, [f64; 3])| three.iter().any(|value| !value.is_finite());
    curve.0.split(gap).filter(|part| !part.is_empty())
}

fn key(canvas: &mut Canvas, grid: &Grid, group: &Group, (left, top): Xy) {
    canvas.text(
        &font::fit(&group.title, NORMAL, KEY),
        (left, top + ABOVE - 4.5),
        NORMAL,
        Anchor::Start,
        BLACK,
    );
    for (i, row) in group.rows.iter().enumerate() {
        let y = top + ABOVE + 6.0 + 10.5 * i as f64;
        canvas.line(vec![(left, y), (left + 11.0, y)], 1.6, COLOURS[i]);
        let label = font::fit(&grid.rows[*row].label, SMALL, KEY - 15.0);
        canvas.text(&label, (left + 15.0, y + 2.3), SMALL, Anchor::Start, BLACK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flat curve with noise, of which the last value happens to be low.
    #[test]
    fn smoothing_invents_no_plunge_at_the_end() {
        let noise = |i: usize| ((i * 7919 + 13) % 101) as f64 / 100.0 - 0.5;
        let mut values: Vec<f64> = (0..400).map(|i| 2.0 + noise(i)).collect();
        values[397..].fill(1.5);
        let curve = smoothed(&values, window(400));
        let inner: Vec<f64> = curve[..curve.len() - 20].iter().map(|(_, loss)| *loss).collect();
        let lowest = inner.iter().copied().fold(f64::INFINITY, f64::min);
        let last = curve.last().unwrap();
        assert!(last.1 > lowest - 0.1, "{} {lowest}", last.1);
        // the first window's middle and the last one's
        assert_eq!((curve[0].0, last.0, curve.len()), (10.5, 390.5, 381));
        assert_eq!(smoothed(&[3.0, 1.0], window(2)), [(1.0, 3.0), (2.0, 1.0)]);
    }

    #[test]
    fn the_band_is_from_the_lowest_seed_to_the_highest_as_far_as_all_go() {
        let curve = over_seeds(&[vec![(1.0, 2.0), (2.0, 1.0)], vec![(1.0, 4.0), (2.0, 3.0), (3.0, 9.0)]]);
        assert_eq!(curve, Curve(vec![(1.0, [2.0, 3.0, 4.0]), (2.0, [1.0, 2.0, 3.0])]));
        let long: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        let curve = over_seeds(&[long]);
        assert!(curve.0.len() <= POINTS + 1 && curve.0.last().unwrap().0 == 9999.0);
    }

    #[test]
    fn one_that_diverges_does_not_flatten_the_others() {
        let curve = |values: &[f64]| Curve(values.iter().map(|v| (1.0, [*v; 3])).collect());
        let (good, bad) = (curve(&[0.5; 100]), curve(&[0.6, 0.7, 1e6]));
        let (axis, cut) = heights(&[&good, &bad]);
        assert!(cut && axis.share(0.6) - axis.share(0.5) > 0.2, "{axis:?}");
        assert!(!heights(&[&good]).1);
    }
}
