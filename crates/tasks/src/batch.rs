use rand::Rng;
use rand::seq::SliceRandom;

use crate::{Example, Target};

/// Examples padded to one length on the right, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Examples.
    pub rows: usize,
    /// Length, in tokens.
    pub columns: usize,
    /// `[rows, columns]`
    pub input_ids: Vec<u32>,
    /// `[rows, columns]`, 0 at padding.
    pub attention_mask: Vec<u8>,
    /// `[rows, columns]`
    pub token_type_ids: Vec<u32>,
    /// What the examples should give.
    pub targets: BatchTargets,
}

/// What a batch's examples should give.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchTargets {
    /// `[rows]`
    Classes(Vec<i64>),
    /// `[rows]`
    Values(Vec<f32>),
    /// `[rows, columns]`, -100 where nothing counts.
    Tokens(Vec<i64>),
}

/// Pads `examples`, all of one kind, to the longest of them, and that to a multiple of `multiple` where `room` allows it.
pub fn collate(examples: &[&Example], pad: u32, multiple: usize, room: usize) -> Batch {
    let longest = examples.iter().map(|example| example.input_ids.len()).max().unwrap_or(0);
    let columns = longest.next_multiple_of(multiple.max(1)).min(room.max(longest));
    let mut batch = Batch {
        rows: examples.len(),
        columns,
        input_ids: Vec::with_capacity(examples.len() * columns),
        attention_mask: Vec::with_capacity(examples.len() * columns),
        token_type_ids: Vec::with_capacity(examples.len() * columns),
        targets: match examples.first().map(|example| &example.target) {
            Some(Target::Class(_)) | None => BatchTargets::Classes(Vec::new()),
            Some(Target::Value(_)) => BatchTargets::Values(Vec::new()),
            Some(Target::Tokens(_)) => BatchTargets::Tokens(Vec::new()),
        },
    };
    for example in examples {
        let missing = columns - example.input_ids.len();
        batch.input_ids.extend(example.input_ids.iter().copied().chain(std::iter::repeat_n(pad, missing)));
        batch
            .attention_mask
            .extend(std::iter::repeat_n(1, columns - missing).chain(std::iter::repeat_n(0, missing)));
        batch
            .token_type_ids
            .extend(example.token_type_ids.iter().copied().chain(std::iter::repeat_n(0, missing)));
        match (&mut batch.targets, &example.target) {
            (BatchTargets::Classes(all), Target::Class(class)) => all.push(*class as i64),
            (BatchTargets::Values(all), Target::Value(value)) => all.push(*value),
            (BatchTargets::Tokens(all), Target::Tokens(tokens)) => {
                all.extend(tokens.iter().copied().chain(std::iter::repeat_n(-100, missing)));
            }
            _ => unreachable!("a task's examples are of one kind"),
        }
    }
    batch
}

/// The batches of an epoch, as positions of examples: shuffled, and within windows of `buckets` batches sorted
/// by length, so that little is padded. Without buckets the order is random alone. The last batch may be smaller.
pub fn epoch_order(lengths: &[usize], batch: usize, buckets: usize, rng: &mut impl Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(rng);
    for window in order.chunks_mut(batch.saturating_mul(buckets).max(1)) {
        if buckets > 0 {
            window.sort_by_key(|row| lengths[*row]);
        }
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect();
    batches.shuffle(rng);
    batches
}

/// Batches for an evaluation: by length, without chance.
pub fn eval_order(lengths: &[usize], batch: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|row| lengths[*row]);
    order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn an_epoch_has_every_example_once_and_depends_on_the_seed_alone() {
        let lengths: Vec<usize> = (0..103).map(|i| i * 7 % 31).collect();
        let order = |seed| epoch_order(&lengths, 8, 4, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut all = order(1).concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
    }

    #[test]
    fn buckets_save_padding() {
        let lengths: Vec<usize> = (0..400).map(|i| i * 37 % 101).collect();
        let padded = |buckets| -> usize {
            let order = epoch_order(&lengths, 8, buckets, &mut ChaCha8Rng::seed_from_u64(0));
            order.iter().map(|batch| batch.len() * batch.iter().map(|row| lengths[*row]).max().unwrap()).sum()
        };
        assert!(padded(10) * 5 < padded(0) * 4, "{} of {}", padded(10), padded(0));
    }

    #[test]
    fn padding_is_marked() {
        let example = |ids: &[u32]| Example {
            input_ids: ids.to_vec(),
            token_type_ids: vec![0; ids.len()],
            target: Target::Tokens(ids.iter().map(|id| i64::from(*id)).collect()),
        };
        let batch = collate(&[&example(&[5, 6, 7]), &example(&[8])], 1, 4, usize::MAX);
        assert_eq!(batch.columns, 4);
        // a network of three positions
        assert_eq!(collate(&[&example(&[5, 6, 7])], 1, 4, 3).columns, 3);
        assert_eq!(batch.input_ids, [5, 6, 7, 1, 8, 1, 1, 1]);
        assert_eq!(batch.attention_mask, [1, 1, 1, 0, 1, 0, 0, 0]);
        assert_eq!(batch.targets, BatchTargets::Tokens(vec![5, 6, 7, -100, 8, -100, -100, -100]));
    }
}
