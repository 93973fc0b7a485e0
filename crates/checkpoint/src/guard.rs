//! Panics of libraries that read untrusted files, as errors.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls of [`guarded`] that are under way.
static GUARDED: AtomicUsize = AtomicUsize::new(0);

/// What `work` gives; where it panics, what the panic says.
///
/// Some libraries panic on files that are none of theirs. The panic is not printed, on whatever thread it
/// happens (they have threads of their own), for the caller turns it into an error that names the file.
///
/// # Errors
/// Where `work` panics.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if GUARDED.load(Ordering::SeqCst) == 0 {
                before(info);
            }
        }));
    });
    GUARDED.fetch_add(1, Ordering::SeqCst);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.fetch_sub(1, Ordering::SeqCst);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| 1), Ok(1));
        let nothing: Vec<u8> = Vec::new();
        let message = guarded(|| nothing[3]).unwrap_err();
        assert!(message.contains("index is 3"), "{message}");
    }
}
