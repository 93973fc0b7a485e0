//! The course of a run's loss, drawn in characters.

use textplots::{Chart, Plot, Shape};

/// Dots of a plot, two to a character across and four down.
const HEIGHT: u32 = 48;
const LEAST_WIDTH: u32 = 40;

/// Mean losses of steps, from 1; a curve of points that a terminal of `columns` characters can show. Between the first and
/// the last step every point is the mean of as many losses, so that noise does not hide the course.
pub(super) fn curve(losses: &[f64], columns: usize) -> Option<String> {
    let finite = losses.iter().all(|loss| loss.is_finite());
    if losses.len() < 2 || !finite {
        return None;
    }
    // the axis' numbers stand at the right of the plot
    let width = (2 * columns.saturating_sub(12) as u32).clamp(LEAST_WIDTH, 160);
    let points = means(losses, width as usize / 2);
    let extreme = |pick: fn(f32, f32) -> f32| points.iter().map(|(_, loss)| *loss).reduce(pick);
    let (low, high) = (extreme(f32::min)?, extreme(f32::max)?);
    // a curve without a rise would leave the axis without a length
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
    let (low, high) = (low - margin, high + margin);
    let shape = Shape::Lines(&points);
    let mut chart = Chart::new_with_y_range(width, HEIGHT, 1.0, losses.len() as f32, low, high);
    let chart = chart.lineplot(&shape);
    chart.axis();
    chart.figures();
    Some(chart.to_string())
}

/// `losses` in at most `count` groups of neighbours: of each its middle and its mean.
fn means(losses: &[f64], count: usize) -> Vec<(f32, f32)> {
    let size = losses.len().div_ceil(count.max(1)).max(1);
    let groups = losses.chunks(size).enumerate();
    let mean = |(group, losses): (usize, &[f64])| {
        let middle = (group * size) as f64 + (losses.len() as f64 + 1.0) / 2.0;
        (middle as f32, (losses.iter().sum::<f64>() / losses.len() as f64) as f32)
    };
    groups.map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_means_of_neighbours() {
        assert_eq!(means(&[1.0, 3.0, 5.0, 7.0, 9.0], 3), [(1.5, 2.0), (3.5, 6.0), (5.0, 9.0)]);
        assert_eq!(means(&[1.0, 3.0], 80), [(1.0, 1.0), (2.0, 3.0)]);
    }

    #[test]
    fn a_curve_fits_the_terminal_and_names_its_ends() {
        let falling: Vec<f64> = (0..500).map(|step| 2.0 - f64::from(step) / 500.0).collect();
        let drawn = curve(&falling, 80).unwrap();
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
        assert!(drawn.contains("2.0") && drawn.contains("500.0"), "{drawn}");
        // what begins at the top ends at the bottom
        let lines: Vec<&str> = drawn.lines().filter(|line| !line.is_empty()).collect();
        let dots = |line: &str| line.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
        assert!(dots(lines[0]) < 80 && lines.len() >= 12, "{drawn}");
        assert_eq!(curve(&[1.0], 80), None);
        assert_eq!(curve(&[1.0, f64::NAN], 80), None);
        assert!(curve(&[1.0, 1.0, 1.0], 10).is_some());
    }
}
