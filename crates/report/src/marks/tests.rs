use peftlab_metrics::value;

use super::*;

/// Accuracy of runs that get so many of `items` right: the first ones, from an own place on.
fn classes(items: usize, right: &[(usize, usize)]) -> Vec<Predictions> {
    let run = |(right, from): &(usize, usize)| {
        let mut predicted = vec![1; items];
        (0..*right).for_each(|i| predicted[(from + i) % items] = 0);
        Predictions::Classes { predicted, expected: vec![0; items], classes: 2 }
    };
    right.iter().map(run).collect()
}

fn marked(metric: Metric, methods: Vec<Vec<Predictions>>) -> Marks {
    let mean = |runs: &Vec<Predictions>| {
        Some(runs.iter().map(|run| value(metric, run)).sum::<f64>() / runs.len() as f64)
    };
    let means: Vec<Option<f64>> = methods.iter().map(mean).collect();
    marks(
        Some(metric),
        metric.higher_is_better(),
        &means,
        &methods.iter().map(|runs| Some(runs.as_slice())).collect::<Vec<_>>(),
    )
}

#[test]
fn three_seeds_that_scatter_by_ten_points_tell_nothing() {
    // full 50.0, 58.3, 58.8 against LoRA 37.0, 60.3, 57.3, of 400 items
    let full = classes(400, &[(200, 0), (233, 20), (235, 40)]);
    let lora = classes(400, &[(148, 10), (241, 30), (229, 50)]);
    let marks = marked(Metric::Accuracy, vec![full, lora]);
    assert_eq!(marks.marks[0], Mark::Best);
    let Mark::Tied(difference) = marks.marks[1] else { panic!("{marks:?}") };
    assert!((difference.estimate + 0.0417).abs() < 1e-3 && difference.p > 0.3, "{difference:?}");
    assert!(difference.interval[0] < 0.0 && difference.interval[1] > 0.0);
    assert!(!marks.one_seed);
}

#[test]
fn of_one_seed_the_items_alone_speak_and_the_legend_says_so() {
    let marks = marked(Metric::Accuracy, vec![classes(400, &[(235, 0)]), classes(400, &[(148, 0)])]);
    assert!(matches!(marks.marks[1], Mark::Different(_)), "{marks:?}");
    assert!(marks.one_seed && marks.needed == SeedsNeeded::Unknown);
    let lines = legend(&[("rte", &marks)]);
    assert!(lines[0].contains("over items") && lines[1].contains("these runs alone"), "{lines:?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{lines:?}");
}

#[test]
fn methods_of_equal_answers_are_tied_and_far_worse_ones_are_not() {
    let good = || classes(300, &[(270, 0), (272, 1), (271, 2)]);
    let bad = classes(300, &[(150, 0), (152, 1), (149, 2)]);
    let marks = marked(Metric::Accuracy, vec![good(), bad, good()]);
    assert_eq!(marks.marks[0], Mark::Best);
    assert!(matches!(marks.marks[1], Mark::Different(difference) if difference.p < 0.01), "{marks:?}");
    assert!(matches!(marks.marks[2], Mark::Tied(difference) if difference.estimate == 0.0), "{marks:?}");
    assert_eq!(
        marks,
        marked(Metric::Accuracy, vec![good(), classes(300, &[(150, 0), (152, 1), (149, 2)]), good()])
    );
}

#[test]
fn sixty_rows_can_be_told_apart() {
    let mut methods: Vec<_> =
        (0..59).map(|i| classes(500, &[(300, i), (305, i + 1), (302, i + 2)])).collect();
    methods.push(classes(500, &[(480, 0), (478, 1), (481, 2)]));
    let marks = marked(Metric::Accuracy, methods);
    assert!(marks.marks[..59].iter().all(|mark| matches!(mark, Mark::Different(_))), "{marks:?}");
}

#[test]
fn what_has_no_score_or_other_items_is_not_tested() {
    let (both, other) = (classes(100, &[(60, 0), (61, 0)]), classes(99, &[(50, 0)]));
    let runs = || Some(both.as_slice());
    let means = [Some(0.6), None, Some(0.9), Some(0.59), Some(0.5)];
    let methods = [runs(), None, runs(), None, Some(other.as_slice())];
    let marks = marks(Some(Metric::Accuracy), true, &means, &methods);
    let tested = |mark: &Mark| matches!(mark, Mark::Tied(_) | Mark::Different(_));
    assert_eq!(marks.marks[2], Mark::Best);
    assert!(tested(&marks.marks[0]));
    assert!([1, 3, 4].iter().all(|i| marks.marks[*i] == Mark::NotTested), "{marks:?}");
    // where the best has no predictions nothing can be held against it
    let none = super::marks(Some(Metric::Accuracy), true, &[Some(0.6), Some(0.9)], &[runs(), None]);
    assert_eq!(none.marks, [Mark::NotTested, Mark::Best]);
    assert!(legend(&[("rte", &none)]).is_empty());
    let unknown = super::marks(None, false, &[Some(0.6), Some(0.9)], &[runs(), runs()]);
    assert_eq!(unknown.marks, [Mark::Best, Mark::NotTested]);
}

#[test]
fn of_losses_the_least_is_the_best() {
    let losses = |by: f64| -> Vec<Predictions> {
        let run = |seed: usize| Predictions::Tokens {
            sum_loss: (0..200).map(|i| 10.0 * (by + ((i * 7 + seed) % 13) as f64 / 50.0)).collect(),
            tokens: vec![10; 200],
        };
        (0..3).map(run).collect()
    };
    let marks = marked(Metric::Perplexity, vec![losses(2.0), losses(1.0)]);
    assert_eq!(marks.marks[1], Mark::Best);
    assert!(matches!(marks.marks[0], Mark::Different(difference) if difference.estimate > 0.0), "{marks:?}");
    assert!((marks.stated / 0.01 - (1.0f64 + 0.12).exp()).abs() < 0.02, "{}", marks.stated);
}

#[test]
fn one_seed_more_in_one_row_says_how_seeds_scatter_in_the_others() {
    let marks = marked(
        Metric::Accuracy,
        vec![classes(400, &[(200, 0), (300, 0), (250, 0)]), classes(400, &[(180, 0)])],
    );
    assert!(matches!(marks.marks[1], Mark::Tied(_)) && !marks.one_seed, "{marks:?}");
}

#[test]
fn the_seeds_that_are_needed_depend_on_what_limits() {
    // seeds that scatter by five points, and methods that answer the same items
    let scattered = |by: usize| classes(2000, &[(1200 - by, 0), (1300 - by, 0), (1250 - by, 0)]);
    let marks = marked(Metric::Accuracy, vec![scattered(0), scattered(1)]);
    let SeedsNeeded::Seeds(seeds) = marks.needed else { panic!("{marks:?}") };
    // (1.96 + 0.84)² 2 · 2.5² points
    assert!((90..110).contains(&seeds), "{seeds}");
    let lines = legend(&[("rte", &marks)]);
    assert!(
        lines.iter().any(|line| line.contains(&format!("rte: {seeds} seeds a method would tell 1 point"))),
        "{lines:?}"
    );
    // 100 items, answered unlike: one point is one item
    let few = |from: usize| classes(100, &[(50, from), (50, from), (51, from)]);
    let marks = marked(Metric::Accuracy, vec![few(0), few(50)]);
    assert!(matches!(marks.needed, SeedsNeeded::TooFewItems(least) if least > 0.1), "{marks:?}");
    assert!(legend(&[("rte", &marks)])[1].contains("for 100 items tell"), "{:?}", legend(&[("rte", &marks)]));
}

#[test]
fn spearman_of_five_thousand_items_in_sixty_rows_is_marked_at_once() {
    let expected: Vec<f64> = (0..5000).map(|i| f64::from(i * 7919 % 5000)).collect();
    let run = |seed: usize| Predictions::Values {
        predicted: expected
            .iter()
            .enumerate()
            .map(|(i, e)| e + ((i * 31 + seed * 977) % 3001) as f64)
            .collect(),
        expected: expected.clone(),
    };
    let methods: Vec<Vec<_>> =
        (0..60).map(|method| (0..3).map(|seed| run(3 * method + seed)).collect()).collect();
    let start = std::time::Instant::now();
    let marks = marked(Metric::Spearman, methods);
    let elapsed = start.elapsed();
    assert!(marks.marks.iter().all(|mark| *mark != Mark::NotTested));
    // a fraction of a second where nothing else runs; three minutes where ranks are made for each draw
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}
