//! The codec against bitsandbytes, on a million weights: `tools/reference/nf4.py` made the digests.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

use burn::tensor::{Device, TensorData};
use peftlab_ops::codec::{Levels, code, compress, decompress, dynamic_table, quantise};
use peftlab_ops::{Packed, Scheme, split_mix};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The weights that the script makes, from integers.
fn weights() -> Vec<f32> {
    let drawn = |index: u64| {
        let draw = |k: u64| (split_mix(0, index * 12 + k) >> 48) as i64;
        ((0..12).map(draw).sum::<i64>() - 6 * 65535) as f32 * 2.0f32.powi(-21)
    };
    let mut all: Vec<f32> = (0..1_000_000).map(drawn).collect();
    all[6400..6528].fill(0.0);
    let table = Levels::Nf4.table();
    for block in 0..16 {
        let start = 12800 + 64 * block;
        for (i, pair) in table.windows(2).enumerate() {
            all[start + i] = (pair[0] + pair[1]) / 2.0;
        }
        all[start + 63] = 1.0;
    }
    let tail = all[100..137].to_vec();
    all.extend(tail);
    all
}

fn digest(bytes: impl IntoIterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.into_iter().collect();
    hex::encode(Sha256::digest(bytes))
}

fn of_floats(values: &[f32]) -> String {
    digest(values.iter().flat_map(|value| value.to_le_bytes()))
}

#[test]
fn codes_scales_and_values_are_bitsandbytes_to_the_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/nf4.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let weights = weights();
    assert_eq!(expected["weights"], of_floats(&weights), "both sides quantise the same weights");
    let device = Device::flex();
    for (name, levels) in [("nf4", Levels::Nf4), ("fp4", Levels::Fp4)] {
        let expected = &expected[name];
        let quantised = quantise(&weights, levels, 64);
        assert_eq!(expected["codes"], digest(quantised.codes.clone()), "{name} codes");
        assert_eq!(expected["absmax"], of_floats(&quantised.absmax), "{name} absmax");
        let compressed = compress(&quantised.absmax);
        let double = &expected["double"];
        assert_eq!(double["table"], of_floats(&dynamic_table()), "{name} dynamic table");
        assert_eq!(double["offset"].as_f64().unwrap() as f32, compressed.offset, "{name} offset");
        assert_eq!(double["absmax"], of_floats(&compressed.absmax), "{name} second absmax");
        assert_eq!(double["codes"], digest(compressed.codes.clone()), "{name} second codes");

        // as the network reads it, on the device
        for (double, expected) in [(false, &expected["values"]), (true, &double["values"])] {
            let scheme = Scheme::Blocks { levels, block: 64, double };
            let packed = Packed::from_values(&weights, [weights.len(), 1], scheme, &device);
            let values: Vec<f32> = packed.unpack().into_data().iter::<f32>().collect();
            assert_eq!(*expected, of_floats(&values), "{name} values");
        }
        let scales = decompress(&compressed);
        let values: Vec<f32> =
            (0..weights.len()).map(|i| levels.table()[code(&quantised.codes, i)] * scales[i / 64]).collect();
        assert_eq!(double["values"], of_floats(&values), "{name} values on the host");
    }
}

/// Box-Muller over the same stream.
fn normal(count: usize) -> Vec<f32> {
    let uniform = |i: u64| (split_mix(0, i) >> 11) as f64 / (1u64 << 53) as f64;
    let one = |i: u64| {
        (-2.0 * (1.0 - uniform(2 * i)).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * i + 1)).cos()
    };
    (0..count as u64).map(|i| one(i) as f32).collect()
}

#[test]
fn errors_and_bits_a_weight_are_the_papers() {
    let weights = normal(1 << 20);
    let error = |levels: Levels| {
        let quantised = quantise(&weights, levels, 64);
        let table = levels.table();
        let square = |(i, weight): (usize, &f32)| {
            let value = table[code(&quantised.codes, i)] * quantised.absmax[i / 64];
            f64::from(weight - value).powi(2)
        };
        (weights.iter().enumerate().map(square).sum::<f64>() / weights.len() as f64).sqrt()
    };
    let [nf4, fp4, int4] = [Levels::Nf4, Levels::Fp4, Levels::Int4].map(error);
    println!("RMS error over sigma: nf4 {nf4:.4}, int4 {int4:.4}, fp4 {fp4:.4}");
    assert!((nf4 / 0.0925 - 1.0).abs() < 0.01, "{nf4}");
    assert!(nf4 < fp4 && nf4 < int4, "{nf4} {fp4} {int4}");

    let bits = |double| {
        let scheme = Scheme::Blocks { levels: Levels::Nf4, block: 64, double };
        let packed = Packed::from_values(&weights, [1024, 1024], scheme, &Device::flex());
        8.0 * packed.bytes() as f64 / weights.len() as f64
    };
    let (plain, double) = (bits(false), bits(true));
    assert_eq!(plain, 4.5);
    assert!((double - 4.127).abs() < 5e-4, "{double}");
}

#[test]
fn the_inputs_gradient_is_that_of_the_dense_weight() {
    let device = Device::flex().autodiff();
    let (rows, columns, batch) = (24, 40, 5);
    let values = normal(rows * columns);
    let input = TensorData::new(normal(batch * columns), [batch, columns]);
    let blocks = |double| Scheme::Blocks { levels: Levels::Nf4, block: 64, double };
    for scheme in [blocks(false), blocks(true), Scheme::Groups { group: 8 }] {
        let packed = Packed::from_values(&values, [rows, columns], scheme, &device);
        let x = || burn::tensor::Tensor::<2>::from_data(input.clone(), &device).require_grad();
        let (a, b) = (x(), x());
        let ours = packed.linear(a.clone());
        let dense = b.clone().matmul(packed.unpack().transpose());
        ours.clone().into_data().assert_eq(&dense.clone().into_data(), true);
        let gradient = |x: burn::tensor::Tensor<2>, y: burn::tensor::Tensor<2>| {
            x.grad(&y.square().sum().backward()).unwrap().into_data()
        };
        gradient(a, ours)
            .assert_approx_eq::<f32>(&gradient(b, dense), burn::tensor::Tolerance::absolute(1e-5));
    }
}
