//! Every lie of a card, and every mistake that the card says nothing of, is found by the check that is for it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peftlab_check::{CheckError, Network, Promise, Report, entry_on, method};
use peftlab_layers::params::ParamInfo;
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_peft::methods::low_rank::{QUERY_VALUE, attach};
use peftlab_peft::{
    Card, Count, Course, Entry, Family, Identity, MergeKind, Method, NotApplicable, Outline, Policy,
    Selection,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What is wrong with the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lie {
    Nothing,
    Identity,
    NotANumber,
    Merge,
    NotMerged,
    Count,
    Stored,
    NoGradient,
    Base,
    TooSlow,
    Reload,
    Panics,
}

/// LoRA with an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Liar {
    lie: Lie,
}

impl Default for Liar {
    fn default() -> Self {
        Self { lie: Lie::Nothing }
    }
}

impl Method for Liar {
    const CARD: Card = Card {
        name: "liar",
        title: "Liar",
        family: Family::Reparameterized,
        paper: "none",
        summary: "LoRA with an error.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[("lie", "\"nothing\"", "what is wrong")],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = Selection::default().select(&QUERY_VALUE, outline)?;
        let adapter: usize =
            targets.iter().map(|at| 4 * (at.input + at.output) + usize::from(at.layer() == Some(0))).sum();
        Ok(match self.lie {
            Lie::Count => Count { adapter: adapter - 1, stored: adapter, buffers: 0 },
            Lie::Stored => Count { adapter, stored: adapter / 2, buffers: 0 },
            _ => Count::all(adapter),
        })
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let lie = self.lie;
        assert!(lie != Lie::Panics, "index out of bounds, or the like");
        attach(model, &Selection::default().select(&QUERY_VALUE, outline)?, |projection| {
            let ProjectionInfo { input, output, .. } = projection.info;
            let start = match lie {
                Lie::Identity => 0.01,
                Lie::NotANumber => f32::NAN,
                _ => 0.0,
            };
            Ok(Wrong {
                a: init.kaiming([input, 4]),
                b: init.constant(start, [4, output]),
                gain: (projection.info.layer() == Some(0)).then(|| init.constant(1.0, [1])),
                lie,
                hidden: if lie == Lie::Reload { other_every_time() } else { 1.0 },
            })
        })
    }

    fn policy(&self, _: Course) -> Option<Box<dyn Policy>> {
        (self.lie == Lie::Base).then(|| Box::new(Meddler) as Box<dyn Policy>)
    }

    fn learning_rate_factor(&self, _: &ParamInfo) -> f64 {
        if self.lie == Lie::TooSlow { 1e-6 } else { 1.0 }
    }
}

/// 1 and 2 by turns.
fn other_every_time() -> f64 {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    // there are four projections
    1.0 + (CALLS.fetch_add(1, Ordering::Relaxed) / 4 % 2) as f64
}

#[derive(Module, Debug)]
struct Wrong {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
    /// In the first layer alone.
    gain: Option<Param<Tensor<1>>>,
    #[module(skip)]
    lie: Lie,
    /// What is in no file.
    #[module(skip)]
    hidden: f64,
}

impl Wrong {
    fn update(&self) -> Tensor<2> {
        let update = self.a.val().matmul(self.b.val()) * self.hidden;
        match &self.gain {
            Some(gain) if self.lie != Lie::NoGradient => update * gain.val().unsqueeze(),
            _ => update,
        }
    }
}

impl ProjectionAdapter for Wrong {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let update = input.clone().matmul(self.update().unsqueeze());
        inner.forward(input) + update
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        match self.lie {
            Lie::NotMerged => None,
            Lie::Merge => Some(weights.plus(self.update() * 0.9)),
            _ => Some(weights.plus(self.update())),
        }
    }
}

/// Changes a weight of the base while it trains.
struct Meddler;

impl Policy for Meddler {
    fn after_step(&mut self, model: &mut Model, _: &GradientsParams, _: usize) {
        let projection = model.sites().projections.remove(0);
        projection.set_weight(projection.weight() * 1.001);
    }
}

fn report(lie: Lie) -> Report {
    entry_on(&Entry::of::<Liar>(), json!({ "lie": lie }), &[Network::Bert]).unwrap()
}

#[test]
fn every_lie_fails_the_check_that_is_for_it_and_no_other() {
    for (lie, promises, reason) in [
        (Lie::Nothing, &[][..], ""),
        (Lie::Identity, &[Promise::Identity], "more than 0.0e0; mend `identity`"),
        (Lie::Merge, &[Promise::Merge], "the card says that merging is exact"),
        (Lie::NotMerged, &[Promise::Merge], "cannot be merged at bert.encoder.layer.0.attention.self.query"),
        (Lie::Count, &[Promise::Count], "mend `count`"),
        (Lie::Stored, &[Promise::Stored], "mend `stored`"),
        (Lie::NoGradient, &[Promise::Gradients], "gain` is declared as trained, but received no gradient"),
        (Lie::Base, &[Promise::Frozen], "query.weight` is frozen, but changed"),
        (Lie::Reload, &[Promise::Reload], "neither trained nor made from the seed"),
    ] {
        let report = report(lie);
        let failed: Vec<Promise> = report.failed().map(|check| check.promise).collect();
        assert_eq!(failed, promises, "{lie:?}\n{report}");
        for check in report.failed() {
            assert!(check.failure.as_ref().unwrap().contains(reason), "{lie:?}\n{report}");
        }
        assert_eq!(report.passed(), lie == Lie::Nothing);
    }
}

#[test]
fn logits_that_are_no_numbers_are_no_equal_ones() {
    let report = report(Lie::NotANumber);
    let failed: Vec<Promise> = report.failed().map(|check| check.promise).collect();
    assert!(failed.contains(&Promise::Identity) && failed.contains(&Promise::Learns), "{report}");
}

#[test]
fn a_method_that_does_not_learn_is_told_how_far_it_came() {
    let report = report(Lie::TooSlow);
    // the head learns by itself, at the same factor
    let learns = report.failed().find(|check| check.promise == Promise::Learns).unwrap();
    assert!(
        learns.value.unwrap() > 0.9 && learns.failure.as_ref().unwrap().contains("200 steps"),
        "{report}"
    );
}

#[test]
fn a_panic_is_a_failure_with_its_message() {
    let report = report(Lie::Panics);
    let reason = |check: &peftlab_check::Check| check.failure.clone().unwrap();
    assert_eq!(report.failed().count(), report.checks.len() - 1, "{report}");
    assert!(report.failed().all(|check| reason(check).contains("panicked: index out of bounds")), "{report}");
}

/// Settings that a card does not list, and typing errors that are passed over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Careless {
    listed: usize,
}

impl Method for Careless {
    const CARD: Card = Card {
        name: "careless",
        title: "Careless",
        family: Family::Partial,
        paper: "none",
        summary: "Trains every norm.",
        identity: Identity::No,
        merge: MergeKind::Already,
        not_for: "",
        settings: &[("listed", "0", "nothing")],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        match self.listed {
            0 => Ok(Count::all(outline.body().filter(|p| self.trains(p)).map(ParamInfo::elements).sum())),
            _ => Err(NotApplicable::new("listed must be 0")),
        }
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        parameter.name.to_lowercase().contains("norm")
    }
}

#[test]
fn a_setting_that_does_not_exist_and_a_card_that_says_no_are_checked_too() {
    let report = method::<Careless>(json!({})).unwrap();
    let failed: Vec<Promise> = report.failed().map(|check| check.promise).collect();
    let expected = [Promise::Settings, Promise::Identity, Promise::Identity, Promise::Identity];
    assert_eq!(failed, expected, "{report}");
    assert!(report.to_string().contains("deny_unknown_fields"), "{report}");
    assert!(report.to_string().contains("no logit differs"), "{report}");
}

#[test]
fn settings_that_fit_no_network_are_an_error_with_the_reasons() {
    let error = method::<Careless>(json!({ "listed": 1 })).unwrap_err();
    assert!(matches!(&error, CheckError::NotApplicable { reasons, .. } if reasons.len() == 3));
    assert!(error.to_string().contains("bert: listed must be 0"), "{error}");
    let error = method::<Liar>(json!({ "lies": 1 })).unwrap_err().to_string();
    assert!(error.contains("liar") && error.contains("did you mean `lie`"), "{error}");
}
