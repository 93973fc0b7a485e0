//! Axes, and the frame in which points are.

use super::canvas::{Anchor, Canvas, Xy};
use super::font;
use super::style::{BLACK, GREY, LIGHT, NORMAL, SMALL};
use crate::format::grouped;

/// Room in a panel beside its frame.
pub(super) const LEFT: f64 = 40.0;
pub(super) const ABOVE: f64 = 15.0;
pub(super) const BELOW: f64 = 29.0;

/// Beyond these an axis is cut off: its numbers would end.
const SMALLEST: f64 = 1e-200;
const LARGEST: f64 = 1e200;

/// A linear or logarithmic axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// In logarithms to base 10 where the axis is logarithmic.
    low: f64,
    high: f64,
    log: bool,
    /// Where a zero is, which has no logarithm.
    zero: Option<f64>,
    /// Values and what is written at them.
    pub(super) ticks: Vec<(f64, String)>,
}

/// The lowest and the highest of the finite values.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |extent, v| {
        extent.map_or(Some((v, v)), |(low, high): (f64, f64)| Some((low.min(v), high.max(v))))
    })
}

impl Axis {
    /// An axis of `values`, with some room around them; it begins at 0 where `from_zero`.
    pub(super) fn linear(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        let (low, high) = (low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST));
        let low = if from_zero { low.min(0.0) } else { low };
        let room = if high > low { 0.06 * (high - low) } else { high.abs().max(1.0) * 0.1 };
        let (low, high) = (if from_zero && low >= 0.0 { 0.0 } else { low - room }, high + room);
        Self { low, high, log: false, zero: None, ticks: linear_ticks(low, high) }
    }

    /// A logarithmic axis of `values`; zeros are at its left end, behind a gap.
    pub(super) fn log(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = extent(values.clone().filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let (low, high) =
            (positive.0.clamp(SMALLEST, LARGEST).log10(), positive.1.clamp(SMALLEST, LARGEST).log10());
        // some room, and never so little that the axis has no round number on it
        let room = (0.08 * (high - low)).max(0.18);
        let (mut low, high) = (low - room, high + room);
        let mut ticks = log_ticks(low, high);
        let zero = values.clone().any(|value| value == 0.0).then_some(low - 0.08 * (high - low));
        if let Some(place) = zero {
            low = place - room;
            ticks.insert(0, (0.0, "0".to_owned()));
        }
        Self { low, high, log: true, zero, ticks }
    }

    /// Logarithmic where the values are positive and differ by more than a factor of two.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone) -> Self {
        match extent(values.clone()) {
            Some((low, high)) if low > 0.0 && high > 2.0 * low => Self::log(values),
            _ => Self::linear(values, false),
        }
    }

    /// An axis with labels at values of one's own.
    pub(super) fn labelled(self, ticks: Vec<(f64, String)>) -> Self {
        Self { ticks, ..self }
    }

    pub(super) fn is_log(&self) -> bool {
        self.log
    }

    /// Where a value is, from 0 at the axis' beginning to 1 at its end; there is what lies beyond.
    pub(super) fn share(&self, value: f64) -> f64 {
        let value = match self.log {
            true if value > 0.0 => value.clamp(SMALLEST, LARGEST).log10(),
            true => self.zero.unwrap_or(self.low),
            false => value,
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The title of the axis, with what it is.
    pub(super) fn title(&self, title: &str) -> String {
        if self.log { format!("{title} (log scale)") } else { title.to_owned() }
    }
}

/// Four to eight round values from `low` to `high`.
fn linear_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let power = 10f64.powf((high - low).log10().floor());
    let steps = [0.1, 0.2, 0.5, 1.0].into_iter().map(|share| share * power);
    let step = steps.into_iter().find(|step| (high - low) / step <= 7.0).unwrap_or(power);
    let first = (low / step).ceil();
    let values = (0..=8).map(|i| (first + f64::from(i)) * step).filter(|value| *value <= high);
    let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 12.0) as usize;
    let text = |value: f64| match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 1e6 => format!("{value:.2e}"),
        tiny if tiny < 1e-4 => format!("{value:.1e}"),
        large if large >= 1e4 && value > 0.0 => grouped(value.round() as u64),
        _ => format!("{value:.decimals$}"),
    };
    // a step of 1e-20 beside a value of 1 moves nothing
    let mut ticks: Vec<(f64, String)> = values.map(|value| (value, text(value))).collect();
    ticks.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1);
    ticks
}

/// Round values between two logarithms.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let decades = low.floor() as i32..=high.ceil() as i32;
    let round = |digits: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|value| (low..=high).contains(&value.log10())).collect()
    };
    let all = [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]];
    let found = all.iter().map(|digits| round(digits)).find(|ticks| ticks.len() > 2);
    let mut ticks = found.unwrap_or_else(|| round(all[3]));
    let every = ticks.len().div_ceil(8).max(1);
    ticks = ticks.into_iter().step_by(every).collect();
    ticks.into_iter().map(|value| (value, short(value))).collect()
}

/// A round number, short: `10 k`.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if !(1e-4..1e12).contains(&v) => return format!("{v:e}"),
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let text = format!("{scaled:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// A panel: axes around a rectangle.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Frame {
    /// The frame of a panel of which the upper left corner and the size are given.
    pub(super) fn within((left, top): Xy, (width, height): Xy, x: Axis, y: Axis) -> Self {
        let (width, height) = (width - LEFT - 8.0, height - ABOVE - BELOW);
        Self { left: left + LEFT, top: top + ABOVE, width, height, x, y }
    }

    pub(super) fn at(&self, x: f64, y: f64) -> Xy {
        (self.left + self.width * self.x.share(x), self.top + self.height * (1.0 - self.y.share(y)))
    }

    /// Draws titles, ticks and their lines; points come after.
    pub(super) fn draw(&self, canvas: &mut Canvas, title: &str, x: &str, y: &str) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        let title = font::fit(title, NORMAL, self.width);
        canvas.text(&title, (self.left, self.top - 4.5), NORMAL, Anchor::Start, BLACK);
        let mut free = f64::NEG_INFINITY;
        for (value, text) in &self.x.ticks {
            let at = self.left + self.width * self.x.share(*value);
            let text = font::fit(text, SMALL, (self.width / self.x.ticks.len() as f64).max(20.0));
            let half = font::width(&text, SMALL) / 2.0;
            canvas.line(vec![(at, self.top), (at, bottom)], 0.4, LIGHT);
            // numbers that would touch are left out
            if at - half >= free {
                canvas.text(&text, (at, bottom + 9.0), SMALL, Anchor::Middle, BLACK);
                free = at + half + 3.0;
            }
        }
        for (value, text) in &self.y.ticks {
            let at = self.top + self.height * (1.0 - self.y.share(*value));
            canvas.line(vec![(self.left, at), (right, at)], 0.4, LIGHT);
            canvas.text(text, (self.left - 3.0, at + 2.3), SMALL, Anchor::End, BLACK);
        }
        canvas.line(vec![(self.left, self.top), (self.left, bottom), (right, bottom)], 0.6, GREY);
        let x = font::fit(x, NORMAL, self.width + LEFT);
        let middle = (self.left + self.width / 2.0).min(right - font::width(&x, NORMAL) / 2.0);
        canvas.text(&x, (middle, bottom + 20.0), NORMAL, Anchor::Middle, BLACK);
        let room = self.height + ABOVE;
        let smaller = if font::width(y, NORMAL) > room { SMALL } else { NORMAL };
        let y = font::fit(y, smaller, room);
        let middle = (self.top + self.height / 2.0).max(bottom - room + font::width(&y, smaller) / 2.0);
        canvas.text_upwards(&y, (self.left - LEFT + 8.0, middle), smaller, BLACK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            texts(&Axis::linear([50.0, 76.0].into_iter(), false)),
            ["50", "55", "60", "65", "70", "75"]
        );
        assert_eq!(texts(&Axis::linear([3.0, 4.0].into_iter(), true)), ["0", "1", "2", "3", "4"]);
        assert_eq!(texts(&Axis::log([258.0, 4.4e6].into_iter())), ["1 k", "10 k", "100 k", "1 M"]);
        assert_eq!(texts(&Axis::log([100.0, 110.0].into_iter())), ["80", "100", "150"]);
    }

    #[test]
    fn zero_parameters_have_a_place_on_a_logarithmic_axis() {
        let axis = Axis::log([0.0, 100.0, 10_000.0].into_iter());
        assert_eq!(axis.ticks[0].1, "0");
        assert!(0.0 < axis.share(0.0) && axis.share(0.0) < axis.share(99.0) && axis.share(1e4) < 1.0);
    }

    #[test]
    fn every_number_has_an_axis() {
        let cases: [&[f64]; 8] = [
            &[],
            &[f64::NAN, f64::INFINITY],
            &[5.0, 5.0],
            &[0.0],
            &[1e308, -1e308],
            &[1.0, 1.0 + f64::EPSILON],
            &[5e-324, 1e-300],
            &[-3.0, 7.0],
        ];
        for values in cases {
            for axis in [
                Axis::linear(values.iter().copied(), false),
                Axis::log(values.iter().copied()),
                Axis::fitting(values.iter().copied()),
            ] {
                assert!(axis.ticks.len() <= 9 && axis.low < axis.high, "{values:?} {axis:?}");
                assert!(
                    values.iter().filter(|v| v.is_finite()).all(|v| (0.0..=1.0).contains(&axis.share(*v))),
                    "{values:?}"
                );
            }
        }
    }
}
