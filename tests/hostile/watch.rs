//! The allocator that counts, and stops a thread that asks for more than an input may cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Live bytes that nobody may go beyond.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static CAUGHT: AtomicBool = AtomicBool::new(false);
static STORY: Mutex<Option<String>> = Mutex::new(None);

/// The system's allocator with a limit on what is live.
pub(crate) struct Watched;

/// Counts `size` new bytes. Beyond the limit it tells where, and the thread goes no further: memory that no machine
/// has is never asked for, and whoever runs the input sees that it did not end.
fn grow(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::Relaxed).saturating_add(size);
    PEAK.fetch_max(live, Ordering::Relaxed);
    if live <= LIMIT.load(Ordering::Relaxed) || CAUGHT.swap(true, Ordering::SeqCst) {
        return;
    }
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    let story = format!("asks for {size} bytes where {live} are live\n{}", Backtrace::force_capture());
    if let Ok(mut told) = STORY.lock() {
        *told = Some(story);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn shrink(size: usize) {
    LIVE.fetch_sub(size, Ordering::Relaxed);
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        // SAFETY: the caller's promise is passed on.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        shrink(if moved.is_null() { size } else { layout.size() });
        moved
    }
}

/// From here on `bytes` more than what is live are one too many.
pub(crate) fn allow(bytes: usize) {
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
    LIMIT.store(live.saturating_add(bytes), Ordering::Relaxed);
}

/// From here on nothing is too much.
pub(crate) fn allow_all() {
    LIMIT.store(usize::MAX, Ordering::Relaxed);
}

/// The most that was live since [`allow`].
pub(crate) fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Who asked for too much, if somebody did.
pub(crate) fn caught() -> Option<String> {
    STORY.lock().ok().and_then(|mut told| told.take())
}
