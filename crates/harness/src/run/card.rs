//! What a method's card and count say, held against what was measured: neither is believed.
//!
//! Every function here is given numbers that somebody measured, and compares. `bench check` measures them on tiny
//! networks, a run on its own.

use burn::tensor::DType;
use peftlab_layers::Model;
use peftlab_layers::params::{self, ParamInfo};
use peftlab_peft::{Card, DynMethod, Identity, MergeKind, Outline};

use crate::error::HarnessError;
use crate::model::attach::Attached;

/// A method says one thing, and something else was measured. The text names both, and what to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{method}`: {what}")]
pub struct Contradiction {
    /// The method's name.
    method: &'static str,
    /// What it says, what was measured, and the remedy.
    what: String,
}

impl Contradiction {
    fn new(card: &Card, what: impl Into<String>) -> Self {
        Self { method: card.name, what: what.into() }
    }
}

impl From<Contradiction> for HarnessError {
    fn from(contradiction: Contradiction) -> Self {
        Self::Failed(contradiction.to_string())
    }
}

/// How far the logits of two computations of the same batch lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The largest difference of two logits; infinite where one of them is no number.
    pub largest: f64,
    /// The largest magnitude of a logit of the first computation.
    pub magnitude: f64,
}

impl Difference {
    /// Between logits of one batch, row-major. Virtual tokens come first: of the longer one the last are taken.
    pub fn between(before: &[f32], after: &[f32]) -> Self {
        let both = before.iter().rev().zip(after.iter().rev());
        // `max` passes over NaN
        let distance = |(a, b): (&f32, &f32)| match f64::from(*a) - f64::from(*b) {
            difference if difference.is_nan() => f64::INFINITY,
            difference => difference.abs(),
        };
        Self {
            largest: both.map(distance).fold(0.0, f64::max),
            magnitude: before.iter().map(|logit| f64::from(logit.abs())).fold(0.0, f64::max),
        }
    }
}

/// How far two computations of the same logits may lie apart for rounding, in shares of the largest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Where the same operations are done on the same numbers, beside others whose result is zero.
    pub repeated: f64,
    /// Where the same sums are added up in another order, as after merging.
    pub reordered: f64,
}

impl Rounding {
    /// Of networks with weights of type `dtype`. `repeats` says whether the device repeats a computation to the bit, as
    /// the CPU does: kernels that are chosen by their speed do not.
    pub fn of(dtype: DType, repeats: bool) -> Self {
        // half the distance from 1 to the next number, and how many of them a network of some dozens of layers adds up
        let (unit, reordered) = match dtype {
            DType::F64 | DType::F32 => (2f64.powi(-24), 2048.0),
            DType::F16 => (2f64.powi(-11), 64.0),
            _ => (2f64.powi(-8), 16.0),
        };
        Self { repeated: if repeats { 0.0 } else { 16.0 * unit }, reordered: reordered * unit }
    }
}

/// [`Card::identity`] against the logits of one batch before and after the method was attached, and, of a card that
/// says [`Identity::Quantised`], against those [without updates](without_updates) and after.
///
/// # Errors
/// Where the card is wrong.
pub fn check_step_0(
    card: &Card,
    to_base: Difference,
    to_quantised: Option<Difference>,
    rounding: Rounding,
) -> Result<(), Contradiction> {
    let within = |what: &str, Difference { largest, .. }: Difference, tolerance: f64| match largest
        <= tolerance
    {
        true => Ok(()),
        false => Err(Contradiction::new(
            card,
            format!(
                "the card says that attaching it {what}, but logits differ by {largest:.3e}, more than {tolerance:.1e}; \
                 mend `identity`, or how its tensors start"
            ),
        )),
    };
    let changed = |what: &str| match to_base.largest > 0.0 {
        true => Ok(()),
        false => Err(Contradiction::new(
            card,
            format!("the card says that attaching it {what}, but no logit differs; mend `identity`"),
        )),
    };
    let repeated = |of: Difference| rounding.repeated * of.magnitude;
    match card.identity {
        Identity::Exact => within("leaves the model as it is", to_base, repeated(to_base)),
        Identity::Within(tolerance) => {
            let tolerance = tolerance.max(rounding.reordered) * to_base.magnitude.max(1.0);
            within("leaves the model nearly as it is", to_base, tolerance)
        }
        Identity::Quantised => {
            changed("quantises the base")?;
            to_quantised.map_or(Ok(()), |of| within("leaves the quantised model as it is", of, repeated(of)))
        }
        Identity::No => changed("changes the model"),
    }
}

/// `model` with nothing attached to its projections: of a base that a method quantised, that base.
pub fn without_updates(model: &Model) -> Model {
    let mut model = model.clone();
    model.sites().projections.into_iter().for_each(|projection| projection.adapters.clear());
    model
}

/// [`Card::merge`] against what [`Model::merge`] came to: the logits of one batch before and after, or the place where
/// it gave up.
///
/// # Errors
/// Where the card is wrong.
pub fn check_merge(
    card: &Card,
    outcome: Result<Difference, &str>,
    rounding: Rounding,
) -> Result<(), Contradiction> {
    match (card.merge, outcome) {
        (MergeKind::Already, _) | (MergeKind::No, Err(_)) => Ok(()),
        (MergeKind::No, Ok(_)) => {
            Err(Contradiction::new(card, "merges, though its card says that it cannot; mend `merge`"))
        }
        (MergeKind::Exact | MergeKind::ZeroPoints, Err(place)) => Err(Contradiction::new(
            card,
            format!(
                "cannot be merged at {place}, though its card says so; mend `merge`, of one or the other"
            ),
        )),
        (MergeKind::Exact | MergeKind::ZeroPoints, Ok(Difference { largest, magnitude })) => {
            let tolerance = rounding.reordered * magnitude.max(1.0);
            match largest <= tolerance {
                true => Ok(()),
                false => Err(Contradiction::new(
                    card,
                    format!(
                        "the card says that merging is exact, but logits differ by {largest:.3e}, more than \
                         {tolerance:.1e}; mend `merge`, of the card or the adapter"
                    ),
                )),
            }
        }
    }
}

/// [`Card::merge`] against the tensors that stay beside those of the base, `outline`: in `attached` where nothing is to
/// be merged, in `merged` where everything was.
///
/// # Errors
/// Where some do.
pub fn check_nothing_beside(card: &Card, model: &Model, outline: &Outline) -> Result<(), Contradiction> {
    // a method may give a projection a bias
    let own = |info: &ParamInfo| !outline.has(&info.name) && !info.name.ends_with(".bias");
    let infos = params::infos(model);
    match infos.iter().find(|info| own(info)) {
        Some(info) if card.merge != MergeKind::No => Err(Contradiction::new(
            card,
            format!(
                "`{}` stays beside the model, though the card says that nothing does; mend `merge`",
                info.name
            ),
        )),
        _ => Ok(()),
    }
}

/// The method's count against the tensors that it attached: what is trained, and what it brings along frozen.
///
/// # Errors
/// Where they are not as many.
pub fn check_count(method: &dyn DynMethod, attached: &Attached) -> Result<(), Contradiction> {
    let card = method.card();
    let failed = |reason: peftlab_peft::NotApplicable| Contradiction::new(card, reason.to_string());
    let count = method.count(&attached.outline).map_err(failed)?;
    let trained = attached.parameters(method).map_err(failed)?.adapter as usize;
    let frozen = attached.frozen_values();
    match (trained, frozen) == (count.adapter, count.buffers) {
        true => Ok(()),
        false => Err(Contradiction::new(
            card,
            format!(
                "trains {trained} values and brings {frozen} frozen ones, but counted {} and {}; mend `count`",
                count.adapter, count.buffers
            ),
        )),
    }
}

/// [`stored`](peftlab_peft::Count::stored) against the tensors that training gave, by name and shape, as they are
/// written: all that is trained, without the head and without what was drawn for want of a checkpoint's. What the method
/// brings along frozen may be counted or not, for it may be drawn again or not.
///
/// Of a method that [grows](DynMethod::grows) the count is a bound that a short training does not come to.
///
/// # Errors
/// Where they are not as many.
pub fn check_stored<'a>(
    method: &dyn DynMethod,
    outline: &Outline,
    trained: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), Contradiction> {
    let card = method.card();
    let count = method.count(outline).map_err(|reason| Contradiction::new(card, reason.to_string()))?;
    let own = trained.filter(|(name, _)| !outline.is_head(name));
    let kept: usize = own.map(|(name, shape)| method.kept_values(name, shape)).sum();
    match method.grows() || [kept, kept + count.buffers].contains(&count.stored) {
        true => Ok(()),
        false => Err(Contradiction::new(
            card,
            format!(
                "keeps {kept} values, but counted {} as stored; mend `stored`, or `kept_values` where it has a smaller \
                 form for a file",
                count.stored
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Card = Card {
        name: "mine",
        title: "Mine",
        family: peftlab_peft::Family::Additive,
        paper: "",
        summary: "",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[],
    };

    fn apart(largest: f64, magnitude: f64) -> Difference {
        Difference { largest, magnitude }
    }

    fn step_0(
        identity: Identity,
        to_base: Difference,
        to_quantised: Option<Difference>,
        dtype: DType,
    ) -> bool {
        check_step_0(&Card { identity, ..CARD }, to_base, to_quantised, Rounding::of(dtype, true)).is_ok()
    }

    #[test]
    fn the_last_logits_are_compared_and_what_is_no_number_is_far() {
        assert_eq!(Difference::between(&[1.0, -3.0], &[9.0, 1.5, -3.0]), apart(0.5, 3.0));
        assert_eq!(Difference::between(&[1.0], &[f32::NAN]).largest, f64::INFINITY);
        assert_eq!(Difference::between(&[1.0], &[f32::INFINITY]).largest, f64::INFINITY);
    }

    #[test]
    fn a_card_that_is_wrong_on_step_0_is_found() {
        let (none, some) = (apart(0.0, 20.0), apart(1e-3, 20.0));
        assert!(step_0(Identity::Exact, none, None, DType::F32));
        assert!(!step_0(Identity::Exact, some, None, DType::F32));
        assert!(!step_0(Identity::Exact, apart(f64::INFINITY, 20.0), None, DType::F32));
        // a tolerance is of logits of about 1
        assert!(step_0(Identity::Within(1e-4), some, None, DType::F32));
        assert!(!step_0(Identity::Within(1e-4), apart(3e-3, 20.0), None, DType::F32));
        assert!(step_0(Identity::Within(1e-4), apart(0.5, 20.0), None, DType::BF16));
        assert!(step_0(Identity::No, some, None, DType::F32));
        assert!(!step_0(Identity::No, none, None, DType::F32));
        assert!(step_0(Identity::Quantised, some, Some(none), DType::F32));
        assert!(!step_0(Identity::Quantised, none, Some(none), DType::F32));
        assert!(!step_0(Identity::Quantised, some, Some(some), DType::F32));
    }

    #[test]
    fn a_device_that_does_not_repeat_itself_is_given_its_rounding() {
        let check = |repeats| check_step_0(&CARD, apart(1e-6, 20.0), None, Rounding::of(DType::F32, repeats));
        assert!(check(false).is_ok());
        let text = check(true).unwrap_err().to_string();
        assert!(
            text.starts_with("`mine`: the card says that attaching it leaves the model as it is"),
            "{text}"
        );
    }

    #[test]
    fn a_card_that_is_wrong_on_merging_is_found() {
        let merge = |merge, outcome| {
            check_merge(&Card { merge, ..CARD }, outcome, Rounding::of(DType::F32, true)).is_ok()
        };
        for exact in [MergeKind::Exact, MergeKind::ZeroPoints] {
            assert!(merge(exact, Ok(apart(1e-4, 20.0))));
            assert!(!merge(exact, Ok(apart(0.1, 20.0))));
            assert!(!merge(exact, Err("a block")));
        }
        assert!(merge(MergeKind::No, Err("a block")));
        assert!(!merge(MergeKind::No, Ok(apart(0.0, 20.0))));
        assert!(merge(MergeKind::Already, Ok(apart(0.0, 20.0))));
    }
}
