//! Which methods of a column cannot be told from its best.
//!
//! **What is tested.** A method's score is a mean over the seeds that were run, on the items that were there. Other seeds
//! and other items would give another, so that a difference is held against what both do to it. Seeds are nested in
//! methods (the third seed of two methods has nothing in common but its number); items are crossed with them (all answer
//! the same ones). That is the layout of multi-reader studies with readers nested in tests (Obuchowski & Rockette 1995,
//! *Communications in Statistics, Simulation and Computation* 24:285; Hillis 2007, *Statistics in Medicine* 26:596):
//! the variance of a difference is one part over seeds, and one over items that is estimated from each item's influence
//! on the score ([`peftlab_metrics::influence`]). With one seed for each method the first part is unknown and left out,
//! and what is told holds for these runs alone.
//!
//! **Degrees of freedom.** Three seeds leave two for a variance; a bootstrap that resamples three seeds takes the variance
//! as known, and as too small by a third. Here the seeds' variances are drawn from what the scores leave possible, by a
//! model in which methods learn from each other how variable seeds are, as far as they are alike ([`hierarchy`]). The
//! errors of the means are then drawn with them, and a critical value is read from the draws: a fiducial interval in the
//! sense of Hannig, Iyer & Patterson (2006, *Journal of the American Statistical Association* 101:254), of which the
//! Behrens–Fisher interval is the simplest.
//!
//! **All at once.** The critical value is that of the largest standardised difference of *any* two methods (Tukey's, with a
//! standard error for each pair as in Games & Howell 1976). The best of a column is chosen by the data, so that a test of
//! each method against it, as if it had been named before, marks too many. Hsu's comparisons with the best (1984, *Annals
//! of Statistics* 12:1136) choose a lower critical value, because they promise less: that the truly best method is among
//! those that are kept. Of several equally good methods they drop some more often than in 5 % of tables. A reader takes
//! "not the best" for "worse", so that here equal methods are held apart in at most 5 % of columns.
//!
//! **Why not another.** In a simulation with normal errors, of 10 equal methods with three seeds whose deviations differed
//! (their logarithms by 0.7), some method was held apart from the best in 33 % of tables where the seeds' variances were taken
//! as known, in 18 % where they were pooled, and in 1 % where each was taken for itself, which finds next to nothing. This
//! procedure's rates, and the power that it has, are in `docs/marks.md`, and `simulation.rs` measures them. A permutation of
//! items cannot see seeds, and of three seeds against three there are 20.

mod components;
mod hierarchy;
mod seeds;
mod simultaneous;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use peftlab_metrics::{Influence, Metric, Predictions};

use components::{Column, influences};
pub(crate) use seeds::SeedsNeeded;
pub(crate) use simultaneous::Difference;
use simultaneous::Simultaneous;

/// The share of columns that may hold apart what is equal.
const LEVEL: f64 = 0.05;

/// What is said of a method in a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mark {
    /// It has the best mean.
    Best,
    /// It cannot be told from the best: its mean less that of the best.
    Tied(Difference),
    /// It is told from the best.
    Different(Difference),
    /// It was not compared: it has no score, or the predictions of one of the two are gone or of other items.
    NotTested,
}

/// The marks of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Marks {
    /// One for each method.
    pub(crate) marks: Vec<Mark>,
    /// Whether the marks are of these runs alone: no method has a second seed.
    pub(crate) one_seed: bool,
    /// Items that the scores are of.
    pub(crate) items: usize,
    /// The difference that [`Self::needed`] speaks of, in the metric's unit: 0.01 where that is one point, else 1 % of the
    /// best.
    pub(crate) stated: f64,
    /// Seeds that tell it.
    pub(crate) needed: SeedsNeeded,
}

/// Marks the methods of a column: `means` has a mean score for each that has any, `methods` the predictions of each of its
/// runs, where they are there. Without a metric that this program knows the best is told, and no more.
pub(crate) fn marks(
    metric: Option<Metric>,
    higher_is_better: bool,
    means: &[Option<f64>],
    methods: &[Option<&[Predictions]>],
) -> Marks {
    let sign = if higher_is_better { 1.0 } else { -1.0 };
    let scored = means.iter().enumerate().filter_map(|(i, mean)| Some((i, sign * (*mean)?)));
    let mut out = Marks {
        marks: vec![Mark::NotTested; means.len()],
        one_seed: false,
        items: 0,
        stated: 0.0,
        needed: SeedsNeeded::Unknown,
    };
    let Some((best, score)) = scored.rev().max_by(|a, b| a.1.total_cmp(&b.1)) else { return out };
    out.marks[best] = Mark::Best;
    let Some(metric) = metric else { return out };
    let runs = |i: usize| methods.get(i).copied().flatten().filter(|runs| !runs.is_empty());
    let Some(first) = runs(best).and_then(<[_]>::first) else { return out };
    let alike = |runs: &&[Predictions]| runs.iter().all(|run| same_items(run, first));
    let tested: Vec<(usize, Vec<Influence>)> = (0..means.len())
        .filter(|i| means[*i].is_some())
        .filter_map(|i| Some((i, influences(metric, runs(i).filter(alike)?)?)))
        .collect();
    let Some(at) = tested.iter().position(|(i, _)| *i == best) else { return out };
    let (tested, compared): (Vec<usize>, Vec<Vec<Influence>>) = tested.into_iter().unzip();
    let column = Column::new(&compared);
    out.one_seed = !column.over_seeds();
    out.items = column.count;
    out.stated = if metric.in_points() { 0.01 } else { 0.01 * score.abs() };
    out.needed = seeds::needed(&column, out.stated);
    let simultaneous = Simultaneous::new(&column);
    for (place, i) in tested.iter().enumerate().filter(|(place, _)| *place != at) {
        let difference = simultaneous.difference(&column, place, at);
        out.marks[*i] = if difference.told() { Mark::Different(difference) } else { Mark::Tied(difference) };
    }
    out
}

/// The mean of `a` less that of `b`, tested alone; none where they are not of the same items, or a score is undefined.
pub(crate) fn difference(metric: Metric, a: &[Predictions], b: &[Predictions]) -> Option<Difference> {
    let first = a.first()?;
    if b.is_empty() || !a.iter().chain(b).all(|run| same_items(run, first)) {
        return None;
    }
    let column = Column::new(&[influences(metric, a)?, influences(metric, b)?]);
    Some(Simultaneous::new(&column).difference(&column, 0, 1))
}

/// Whether two runs answered the same questions, as far as what was expected of them tells.
fn same_items(a: &Predictions, b: &Predictions) -> bool {
    match (a, b) {
        (Predictions::Classes { expected: a, .. }, Predictions::Classes { expected: b, .. }) => {
            // numbers of classes are of a run: the least of those that occur is the least in both
            let places = |classes: &[usize]| {
                let known: std::collections::BTreeSet<usize> = classes.iter().copied().collect();
                let place: std::collections::BTreeMap<usize, usize> =
                    known.into_iter().enumerate().map(|(place, class)| (class, place)).collect();
                classes.iter().map(|class| place[class]).collect::<Vec<_>>()
            };
            a == b || (a.len() == b.len() && places(a) == places(b))
        }
        (Predictions::Values { expected: a, .. }, Predictions::Values { expected: b, .. }) => a == b,
        (Predictions::Tokens { tokens: a, .. }, Predictions::Tokens { tokens: b, .. }) => a == b,
        _ => false,
    }
}

/// What a table says below it of its columns' marks, a sentence a line: the test, what it holds for, and how many seeds
/// would tell a stated difference. `columns` has each column's name.
pub(crate) fn legend(columns: &[(&str, &Marks)]) -> Vec<String> {
    let tested: Vec<&(&str, &Marks)> = columns
        .iter()
        .filter(|(_, marks)| {
            marks.marks.iter().any(|mark| matches!(mark, Mark::Tied(_) | Mark::Different(_)))
        })
        .collect();
    let mut lines = Vec::new();
    if tested.is_empty() {
        return lines;
    }
    let single = tested.iter().filter(|(_, marks)| marks.one_seed).count();
    let over = if single == tested.len() { "items" } else { "seeds and items" };
    lines.push(format!(
        "* cannot be told from the best of the column: all differences at once, over {over}, at most 5 % of columns err"
    ));
    if single > 0 {
        let which = if single == tested.len() {
            "one seed".to_owned()
        } else {
            names(&tested, |marks| marks.one_seed) + ": one seed"
        };
        lines.push(format!("{which}: marks concern these runs alone, and say nothing of other seeds"));
    }
    lines.extend(tested.iter().filter_map(|(name, marks)| {
        let stated = if marks.stated == 0.01 { "1 point".to_owned() } else { "1 % of the best".to_owned() };
        let needed = match marks.needed {
            SeedsNeeded::Unknown => return None,
            SeedsNeeded::Seeds(seeds) => format!("{seeds} seeds a method would tell {stated}"),
            SeedsNeeded::MoreThan(seeds) => {
                format!("more than {seeds} seeds a method would be needed to tell {stated}")
            }
            SeedsNeeded::TooFewItems(least) => {
                let times = least / marks.stated;
                let unit = if marks.stated == 0.01 { "points" } else { "%" };
                format!(
                    "no number of seeds tells {stated}, for {} items tell {times:.1} {unit} at the least",
                    marks.items
                )
            }
        };
        Some(format!("{name}: {needed} from the best (power 80 %)"))
    }));
    lines
}

fn names(columns: &[&(&str, &Marks)], which: fn(&Marks) -> bool) -> String {
    columns.iter().filter(|(_, marks)| which(marks)).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
