//! The counting allocator in a program of its own, without the test harness: the counters are the whole program's,
//! and the harness's thread allocates beside a test.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;

use peftlab_meter::{CountingAllocator, Timeline, allocated};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const MB: usize = 1_000_000;

fn live() -> u64 {
    allocated::live().expect("installed")
}

fn peak() -> u64 {
    allocated::peak().expect("installed")
}

fn main() {
    vectors();
    raw_blocks();
    many_threads();
    phases();
}

fn vectors() {
    let before = live();
    allocated::reset_peak();
    assert_eq!(peak(), before);

    let ten = black_box(vec![0_u8; 10 * MB]);
    assert_eq!(live() - before, 10_000_000);
    drop(ten);
    assert_eq!(live(), before);
    assert_eq!(peak() - before, 10_000_000, "the peak outlives the vector");

    allocated::reset_peak();
    assert_eq!(peak(), before, "and a reset forgets it");

    let mut growing: Vec<u8> = Vec::with_capacity(MB);
    growing.reserve_exact(3 * MB);
    assert_eq!(live() - before, 3_000_000, "a grown block counts once");
    growing.push(black_box(1));
    growing.shrink_to(MB);
    assert_eq!(live() - before, 1_000_000);
    drop(growing);
    assert_eq!(live(), before);
    assert_eq!(peak() - before, 3_000_000);
}

#[expect(unsafe_code, reason = "calls the allocator as the standard library does")]
fn raw_blocks() {
    let before = live();
    let layout = Layout::from_size_align(12_345, 4096).expect("a layout");
    // SAFETY: the layout's size is not zero; each block is freed once, with the layout it has then.
    unsafe {
        let plain = alloc(layout);
        let zeroed = alloc_zeroed(layout);
        assert!(!plain.is_null() && !zeroed.is_null());
        assert_eq!(live() - before, 2 * 12_345);
        let moved = realloc(plain, layout, 54_321);
        assert!(!moved.is_null() && moved.addr().is_multiple_of(4096));
        assert_eq!(live() - before, 54_321 + 12_345);
        // More than any machine has: refused, and nothing changes.
        let refused = realloc(zeroed, layout, isize::MAX as usize - 4096);
        assert!(refused.is_null());
        assert_eq!(live() - before, 54_321 + 12_345);
        dealloc(moved, Layout::from_size_align(54_321, 4096).expect("a layout"));
        dealloc(zeroed, layout);
    }
    assert_eq!(live(), before);
}

fn many_threads() {
    // A first round, so that what the runtime keeps for threads is there already.
    for round in 0..2 {
        let before = live();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (1..2000).for_each(|size| drop(black_box(vec![0_u8; size]))));
            }
        });
        if round == 1 {
            // A joined thread's own record may go a moment later; 8 million bytes passed through.
            assert!(live().abs_diff(before) < 20_000, "{} then {}", before, live());
        }
    }
}

fn phases() {
    let mut timeline = Timeline::new();
    for (phase, size) in [("evaluate", 8 * MB), ("train", 2 * MB), ("evaluate", MB), ("train", 4 * MB)] {
        let guard = timeline.phase(phase).expect("not nested");
        drop(black_box(vec![1_u8; size]));
        drop(guard);
    }
    let summary = timeline.summary();
    let peak_of = |name: &str| {
        let phase = summary.phases.iter().find(|phase| phase.name == name).expect("a phase");
        phase.allocated_peak_bytes.expect("installed") - phase.allocated_start_bytes.expect("installed")
    };
    // Within the timeline's own few hundred bytes.
    assert!((8_000_000..8_010_000).contains(&peak_of("evaluate")), "{}", peak_of("evaluate"));
    assert!((4_000_000..4_010_000).contains(&peak_of("train")), "{}", peak_of("train"));
}
