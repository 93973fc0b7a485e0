//! Peak memory of every method, the least first.

use super::canvas::{Anchor, Canvas, WIDTH};
use super::font;
use super::frame::Axis;
use super::scatter;
use super::style::{self, BLACK, GREY, LIGHT, Looks, NORMAL, SMALL};
use crate::format::mebibytes;
use crate::grid::Grid;

/// Height of a bar with the room beside it.
const STEP: f64 = 11.0;

/// The picture; none where all bars would be one.
pub(super) fn draw(grid: &Grid) -> Option<Canvas> {
    let peak = |i: usize| grid.rows[i].peak_memory.filter(|bytes| bytes.is_finite());
    let (low, high) = (0..grid.rows.len())
        .filter_map(peak)
        .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), bytes| (low.min(bytes), high.max(bytes)));
    if high <= 1.02 * low {
        return None;
    }
    let mut order: Vec<usize> = (0..grid.rows.len()).collect();
    order.sort_by(|a, b| peak(*a).unwrap_or(f64::INFINITY).total_cmp(&peak(*b).unwrap_or(f64::INFINITY)));
    let looks = Looks::new(&grid.rows);
    let mut canvas = Canvas::default();
    let top = style::title(&mut canvas, grid, "peak memory in training") + 4.0;
    let widest = grid.rows.iter().map(|row| font::width(&row.label, SMALL)).fold(0.0, f64::max);
    let left = widest.min(150.0) + 6.0;
    let width = WIDTH - left - 40.0;
    let bottom = top + STEP * order.len() as f64 + 2.0;
    let axis = Axis::linear([0.0, high / f64::from(1 << 20)].into_iter(), true);
    let at = |bytes: f64| left + width * axis.share(bytes / f64::from(1 << 20));
    for (value, text) in &axis.ticks {
        let x = left + width * axis.share(*value);
        canvas.line(vec![(x, top), (x, bottom)], 0.4, LIGHT);
        canvas.text(text, (x, bottom + 9.0), SMALL, Anchor::Middle, BLACK);
    }
    for (i, row) in order.into_iter().enumerate() {
        let (y, of) = (top + STEP * i as f64 + 1.5, &grid.rows[row]);
        let label = font::fit(&of.label, SMALL, left - 6.0);
        canvas.text(&label, (left - 4.0, y + 6.5), SMALL, Anchor::End, BLACK);
        let Some(bytes) = peak(row) else {
            let why = of
                .cells
                .iter()
                .find_map(|cell| cell.failure.as_ref())
                .map_or("not measured", |(short, _)| short);
            canvas.text(why, (left + 4.0, y + 6.5), SMALL, Anchor::Start, GREY);
            continue;
        };
        let before = at(of.memory_before.unwrap_or(0.0).min(bytes));
        let colour = looks.rows[row].colour;
        canvas.rectangle((left, y), (before - left, STEP - 3.0), colour.faint(35));
        canvas.rectangle((before, y), (at(bytes) - before, STEP - 3.0), colour);
        canvas.text(&mebibytes(Some(bytes)), (at(bytes) + 3.0, y + 6.5), SMALL, Anchor::Start, BLACK);
    }
    canvas.line(vec![(left, top), (left, bottom), (left + width, bottom)], 0.6, GREY);
    canvas.text(scatter::memory(grid), (left + width / 2.0, bottom + 20.0), NORMAL, Anchor::Middle, BLACK);
    let mut end = bottom + 27.0;
    end += style::families(&mut canvas, &looks, end);
    if grid.rows.iter().any(|row| row.memory_before.is_some()) {
        let note = "light: model and data before the first step; full colour: what training adds";
        end += canvas.paragraph(note, (0.0, end), WIDTH, SMALL, GREY);
    }
    canvas.height = end + 4.0;
    Some(canvas)
}
