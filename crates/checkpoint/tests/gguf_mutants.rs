//! Changed GGUF files: whatever is in one, it is read or refused, and no more is allocated than the file could need.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use peftlab_checkpoint::{Gguf, TensorSource};
use support::{File, Value, counted, fixtures, texts};

/// The largest piece of memory that was asked for at once.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Numbers that look random and are the same in each run (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// Lengths and counts that no file has.
const LENGTHS: [u64; 8] = [0, 1, 255, 1 << 31, 1 << 32, 1 << 60, u64::MAX / 8, u64::MAX];

fn mutant(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(bytes.len());
        match numbers.below(5) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = numbers.below(256) as u8,
            2 => {
                let length = LENGTHS[numbers.below(LENGTHS.len())].to_le_bytes();
                let width = if numbers.below(2) == 0 { 4 } else { 8 };
                bytes[at..].iter_mut().zip(&length[..width]).for_each(|(byte, new)| *byte = *new);
            }
            3 => bytes.truncate(at.max(1)),
            _ => {
                let (from, count) = (numbers.below(bytes.len()), numbers.below(64));
                let piece: Vec<u8> = bytes[from..].iter().take(count).copied().collect();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Everything that a run does with a file.
fn read(path: &std::path::Path) {
    let Ok(gguf) = Gguf::open(path) else { return };
    let (Ok(_), Ok(_)) = (gguf.config(), gguf.tokenizer()) else { return };
    gguf.warnings();
    for name in gguf.names() {
        let _ = gguf.read_f32(&name).map(|values| values.len());
    }
}

#[test]
fn no_mutant_panics_or_asks_for_more_memory_than_a_file_needs() {
    let pieces: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let pieces = File::tiny()
        .with("tokenizer.ggml.model", Value::Text("llama".to_owned()))
        .with("tokenizer.ggml.tokens", Value::Texts(pieces))
        .with("tokenizer.ggml.scores", Value::F32s(vec![0.0; 256]))
        .without("tokenizer.ggml.token_type")
        .tensor(counted("token_embd.weight", &[256, 8]))
        .tensor(counted("output.weight", &[256, 8]));
    let seeds = [
        std::fs::read(fixtures().join("tiny.gguf")).unwrap(),
        std::fs::read(fixtures().join("tiny-00001-of-00002.gguf")).unwrap(),
        File::tiny().with("llama.feed_forward_length", Value::I32s(vec![16])).bytes(),
        File::tiny().with("general.tags", texts(&["a", "b"])).bytes(),
        pieces.bytes(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let second = "tiny-00002-of-00002.gguf";
    std::fs::copy(fixtures().join(second), folder.path().join(second)).unwrap();
    let path = folder.path().join("tiny-00001-of-00002.gguf");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..1000 {
        let seed = &seeds[round % seeds.len()];
        std::fs::write(&path, mutant(seed, &mut numbers)).unwrap();
        LARGEST.store(0, Ordering::Relaxed);
        read(&path);
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest < 64 * seed.len() + (1 << 20), "round {round}: {largest} bytes at once");
    }
    for length in 1..seeds[0].len() {
        std::fs::write(&path, &seeds[0][..length]).unwrap();
        assert!(Gguf::open(&path).is_err(), "cut at {length}");
    }
}
