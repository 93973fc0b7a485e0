//! What the program is: its version, the commit that it was built from, what it was built with.

use std::sync::LazyLock;

/// For `bench --version`.
pub(crate) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("PEFTLAB_COMMIT").unwrap_or("unknown");
        let features = [
            ("cuda", cfg!(feature = "cuda")),
            ("cuda-cpp", cfg!(feature = "cuda-cpp")),
            ("cubecl-cpu", cfg!(feature = "cubecl-cpu")),
        ];
        let built: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        let built = if built.is_empty() { "none".to_owned() } else { built.join(", ") };
        format!("{}\ncommit: {commit}\nfeatures: {built}", env!("CARGO_PKG_VERSION"))
    });
    &LONG
}
