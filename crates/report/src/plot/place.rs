//! Labels beside points, so that none lies on another: every label tries places around its point, first near, then
//! far with a line to it, and takes the best; then each looks again, now that the others have theirs.

use super::canvas::{Anchor, Canvas, Xy};
use super::style::{BLACK, GREY, SMALL, WHITE};

/// A label farther than this from its point's marker has a line to it.
const LED: f64 = 4.0;

/// A rectangle: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Block {
    fn around((x, y): Xy, dx: f64, dy: f64) -> Self {
        Self { left: x - dx, top: y - dy, right: x + dx, bottom: y + dy }
    }

    /// The line between two points, one wide.
    pub(super) fn between(a: Xy, b: Xy) -> Self {
        let middle = ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
        Self::around(middle, (a.0 - b.0).abs() / 2.0 + 0.5, (a.1 - b.1).abs() / 2.0 + 0.5)
    }

    /// The area that both cover.
    fn shared(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    fn within(&self, outer: &Self) -> bool {
        self.left >= outer.left
            && self.top >= outer.top
            && self.right <= outer.right
            && self.bottom <= outer.bottom
    }

    /// The place of the rectangle that is nearest to a point.
    fn nearest(&self, (x, y): Xy) -> Xy {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// A point with a label to be placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) at: Xy,
    /// The label's width.
    pub(super) width: f64,
    /// Half the length of the bar through the point.
    pub(super) bar: f64,
}

/// A panel in which labels are placed.
pub(super) struct Field<'a> {
    pub(super) points: &'a [Point],
    /// Lines that labels had better not cover.
    pub(super) lines: Vec<Block>,
    /// Where labels may be.
    pub(super) outer: Block,
    /// Of the points' markers.
    pub(super) radius: f64,
    /// Of the labels.
    pub(super) height: f64,
}

/// Height of a label in the size in which names are drawn.
pub(super) const HEIGHT: f64 = SMALL + 0.8;

impl Field<'_> {
    /// Draws the points' names, and lines to those that are far; the markers come after.
    pub(super) fn draw(&self, canvas: &mut Canvas, names: &[String]) {
        let blocks = self.place();
        for (point, block) in self.points.iter().zip(&blocks) {
            let end = block.nearest(point.at);
            if length(end, point.at) > self.radius + LED {
                canvas.line(vec![point.at, end], 0.4, GREY);
            }
        }
        for (name, block) in names.iter().zip(&blocks) {
            let size = (block.right - block.left, block.bottom - block.top);
            canvas.rectangle((block.left, block.top), size, WHITE.faint(75));
            canvas.text(name, (block.left + 0.5, block.bottom - 1.7), SMALL, Anchor::Start, BLACK);
        }
    }

    /// Places of the points' labels.
    fn place(&self) -> Vec<Block> {
        let points = self.points;
        let mut placed: Vec<Option<Block>> = vec![None; points.len()];
        // where it is crowded labels have the fewest places: they choose first
        let near = |a: &Point, b: &Point| (a.at.0 - b.at.0).hypot(a.at.1 - b.at.1) < 6.0 * self.height;
        let crowd = |i: usize| points.iter().filter(|other| near(&points[i], other)).count();
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by_cached_key(|i| std::cmp::Reverse(crowd(*i)));
        let candidates: Vec<Vec<Block>> = points.iter().map(|point| self.candidates(point)).collect();
        for _ in 0..if self.crowded() { 1 } else { 4 } {
            for own in &order {
                placed[*own] = None;
                let mut best = (f64::INFINITY, None);
                for block in &candidates[*own] {
                    let cost = self.cost(&placed, *own, block, best.0);
                    // of places that are as good the first, which is at the right
                    if cost < best.0 - 1e-6 {
                        best = (cost, Some(*block));
                    }
                }
                placed[*own] = best.1;
            }
        }
        // a label wider than the panel has no place within it
        let beside = |point: &Point| Block {
            left: self.outer.left,
            top: point.at.1 - self.height / 2.0,
            right: self.outer.left + point.width,
            bottom: point.at.1 + self.height / 2.0,
        };
        placed.iter().zip(points).map(|(block, point)| block.unwrap_or_else(|| beside(point))).collect()
    }

    /// Whether there are so many points that looking for the best places would take seconds.
    fn crowded(&self) -> bool {
        self.points.len() > 100
    }

    /// Places around a point, the nearest first.
    fn candidates(&self, point: &Point) -> Vec<Block> {
        let mut all = Vec::new();
        let (half, gap) = (point.width / 2.0, self.radius + 1.5);
        let mut add = |x: f64, y: f64| {
            let block = Block::around((point.at.0 + x, point.at.1 + y), half, self.height / 2.0);
            if block.within(&self.outer) {
                all.push(block);
            }
        };
        let beside = half + gap;
        let above = self.height / 2.0 + gap;
        for (x, y) in [(beside, 0.0), (-beside, 0.0), (0.0, -above), (0.0, above)] {
            add(x, y);
        }
        for ring in 0..if self.crowded() { 3 } else { 14 } {
            let far = f64::from(ring) * 0.8 * self.height;
            for angle in 0..24 {
                let (sin, cos) = (f64::from(angle) / 24.0 * std::f64::consts::TAU).sin_cos();
                add(cos * far + beside * cos.signum() * f64::from(cos.abs() > 0.1), sin * (far + above));
            }
        }
        all
    }

    /// How bad a place is; where it is worse than `bound`, something above that.
    fn cost(&self, placed: &[Option<Block>], own: usize, block: &Block, bound: f64) -> f64 {
        let at = self.points[own].at;
        let nearest = block.nearest(at);
        let distance = length(at, nearest);
        let led = distance > self.radius + LED;
        let mut cost = distance + if led { 6.0 } else { 0.0 };
        cost += self.lines.iter().map(|line| 0.5 * block.shared(line)).sum::<f64>();
        for (i, point) in self.points.iter().enumerate() {
            if cost > bound {
                return cost;
            }
            cost += 6.0 * block.shared(&Block::around(point.at, self.radius + 1.0, self.radius + 1.0));
            cost += 0.6 * block.shared(&Block::around(point.at, 0.7, point.bar));
            // a line over another's marker would lead to that
            if led && i != own && point.at != at && gap(at, nearest, point.at) < self.radius + 2.0 {
                cost += 50.0;
            }
            let Some(other) = placed[i].as_ref().filter(|_| i != own) else { continue };
            cost += 40.0 * block.shared(other);
            if led && crosses(at, nearest, other) {
                cost += 60.0;
            }
            let lead = other.nearest(point.at);
            if length(lead, point.at) > self.radius + LED {
                cost += if crosses(point.at, lead, block) { 60.0 } else { 0.0 };
                cost += if led && cross((at, nearest), (point.at, lead)) { 30.0 } else { 0.0 };
            }
        }
        cost
    }
}

fn length(a: Xy, b: Xy) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

/// Distance of the point `c` from the line between `a` and `b`.
fn gap(a: Xy, b: Xy, c: Xy) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    let share = if length > 0.0 { ((c.0 - a.0) * dx + (c.1 - a.1) * dy) / length } else { 0.0 };
    let share = share.clamp(0.0, 1.0);
    (a.0 + share * dx - c.0).hypot(a.1 + share * dy - c.1)
}

/// Whether the line between two points passes through a rectangle.
fn crosses(a: Xy, b: Xy, block: &Block) -> bool {
    let at = |i: i32| (a.0 + (b.0 - a.0) * f64::from(i) / 10.0, a.1 + (b.1 - a.1) * f64::from(i) / 10.0);
    (0..=10).map(at).any(|(x, y)| x > block.left && x < block.right && y > block.top && y < block.bottom)
}

/// Whether two lines cross.
fn cross((a, b): (Xy, Xy), (c, d): (Xy, Xy)) -> bool {
    let side = |p: Xy, q: Xy, r: Xy| (q.0 - p.0) * (r.1 - p.1) - (q.1 - p.1) * (r.0 - p.0);
    side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(points: &[Point], outer: Block) -> Field<'_> {
        Field { points, lines: Vec::new(), outer, radius: 2.8, height: 8.0 }
    }

    /// Sixty points, half of them in four columns, as methods of one rank are.
    #[test]
    fn no_label_lies_on_another_or_on_a_marker() {
        let outer = Block { left: 0.0, top: 0.0, right: 430.0, bottom: 380.0 };
        let point = |i: usize| {
            let column = [60.0, 200.0, 210.0, 390.0][i % 4];
            let x = if i.is_multiple_of(2) { column } else { 20.0 + (i * 83 % 380) as f64 };
            Point { at: (x, 20.0 + (i * 47 % 340) as f64), width: 40.0 + (i % 5) as f64 * 12.0, bar: 10.0 }
        };
        let points: Vec<Point> = (0..60).map(point).collect();
        let blocks = field(&points, outer).place();
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.within(&outer), "{block:?}");
            let area = 0.02 * (block.right - block.left) * 8.0;
            assert!(blocks[..i].iter().all(|other| block.shared(other) <= area), "{i} {block:?}");
            let covered = points.iter().filter(|p| block.shared(&Block::around(p.at, 2.0, 2.0)) > 2.0);
            assert_eq!(covered.count(), 0, "{i} {block:?}");
        }
    }

    #[test]
    fn a_label_wider_than_the_panel_and_points_at_one_place_are_placed() {
        let outer = Block { left: 0.0, top: 0.0, right: 100.0, bottom: 60.0 };
        let wide = Point { at: (50.0, 30.0), width: 200.0, bar: 0.0 };
        assert_eq!(field(&[wide], outer).place().len(), 1);
        let same = Point { at: (50.0, 30.0), width: 20.0, bar: 0.0 };
        let same = [same; 4];
        let blocks = field(&same, outer).place();
        assert!((1..4).all(|i| blocks[..i].iter().all(|other| blocks[i].shared(other) == 0.0)), "{blocks:?}");
    }
}
