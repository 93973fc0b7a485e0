//! Loss curves, thinned so that a page with thousands of runs stays small.

use peftlab_record::{Look, Step};
use serde_json::{Value, json};

use super::columns::short;

/// The most points that all of a page's curves have together, about: 7 bytes each.
const ALL_POINTS: usize = 250_000;
/// The most points of a curve.
const MOST: usize = 200;
/// The fewest.
const FEWEST: usize = 20;
/// Significant digits of a loss.
const DIGITS: i32 = 4;

/// Curves, and the steps that they share.
pub(super) struct Curves {
    /// Points that a curve may have.
    points: usize,
    /// Lists of steps.
    axes: Vec<Value>,
    /// The most steps of which a point is the mean.
    pub(super) widest: usize,
}

impl Curves {
    pub(super) fn new(runs: usize) -> Self {
        let points = (ALL_POINTS / runs.max(1)).clamp(FEWEST, MOST);
        Self { points, axes: Vec::new(), widest: 1 }
    }

    /// The training curve of each of a cell's runs. A point is the mean over as many steps as any other, and no step is
    /// in two points: unlike a running mean, that neither bends the ends nor hides how rough a curve is. All runs of a
    /// cell are cut at the same steps, so that a band over seeds can be drawn.
    pub(super) fn training(&mut self, runs: &[Vec<Step>]) -> Vec<Value> {
        let longest = runs.iter().map(Vec::len).max().unwrap_or(0);
        let width = longest.div_ceil(self.points).max(1);
        self.widest = self.widest.max(width);
        let curve = |steps: &Vec<Step>| {
            let mut points: Vec<(f64, f64)> = Vec::new();
            // fewer steps at the end than half a point's would make a point that is rougher than the others
            let last = (steps.len() + width / 2) / width;
            for point in 0..last.max(usize::from(!steps.is_empty())) {
                let end = if point + 1 >= last { steps.len() } else { (point + 1) * width };
                let part = &steps[point * width..end];
                let mean = |of: fn(&Step) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
                points.push((mean(|step| step.step as f64), mean(|step| step.loss)));
            }
            self.curve(&points)
        };
        runs.iter().map(curve).collect()
    }

    /// The curve of the validation loss.
    pub(super) fn validation(&mut self, looks: &[Look]) -> Value {
        let every = looks.len().div_ceil(self.points).max(1);
        // a look is a mean over the whole set already: some are left out, and the last one stays
        let kept = looks.iter().rev().step_by(every).rev();
        let points: Vec<(f64, f64)> = kept.map(|look| (look.step as f64, look.loss)).collect();
        self.curve(&points)
    }

    fn curve(&mut self, points: &[(f64, f64)]) -> Value {
        let steps: Value = points.iter().map(|(step, _)| short(Some(*step), 8)).collect();
        let axis = self.axes.iter().rposition(|axis| *axis == steps).unwrap_or_else(|| {
            self.axes.push(steps);
            self.axes.len() - 1
        });
        json!({ "axis": axis, "loss": points.iter().map(|(_, loss)| short(Some(*loss), DIGITS)).collect::<Vec<_>>() })
    }

    pub(super) fn axes(self) -> Vec<Value> {
        self.axes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(count: u64) -> Vec<Step> {
        let step = |step| Step {
            step,
            loss: step as f64,
            learning_rate: 0.0,
            seconds: 0.0,
            tokens: 0,
            used_bytes: None,
        };
        (1..=count).map(step).collect()
    }

    #[test]
    fn short_curves_are_left_as_they_are_and_share_their_steps() {
        let mut curves = Curves::new(6);
        let drawn = curves.training(&[steps(3), steps(3), steps(2)]);
        assert_eq!(drawn[0], json!({ "axis": 0, "loss": [1, 2, 3] }));
        assert_eq!([&drawn[1]["axis"], &drawn[2]["axis"]], [0, 1]);
        assert_eq!((curves.widest, curves.axes()), (1, vec![json!([1, 2, 3]), json!([1, 2])]));
    }

    #[test]
    fn long_curves_are_means_that_lose_no_step() {
        let mut curves = Curves::new(6);
        let drawn = curves.training(&[steps(1000), steps(401), steps(1), Vec::new()]);
        // five steps a point; the one that is left over goes with the last five
        assert_eq!(drawn[0]["loss"].as_array().unwrap().len(), 200);
        let second = drawn[1]["loss"].as_array().unwrap();
        assert_eq!((second.len(), &second[0], &second[79]), (80, &json!(3), &json!(398.5)));
        assert_eq!((&drawn[2]["loss"], &drawn[3]["loss"]), (&json!([1]), &json!([])));
        assert_eq!(curves.widest, 5);
        assert!(Curves::new(5000).points < Curves::new(6).points);
    }

    #[test]
    fn the_last_look_stays() {
        let looks: Vec<Look> = (1..=401).map(|step| Look { step, loss: f64::NAN }).collect();
        let mut curves = Curves::new(1);
        assert_eq!(curves.validation(&looks)["loss"][0], Value::Null);
        assert_eq!(curves.axes()[0].as_array().unwrap().last(), Some(&json!(401)));
    }
}
