//! The `bench` program.

use std::process::ExitCode;

use peftlab_meter::CountingAllocator;
use peftlab_peft::Registry;

// peak memory is measured where it is made: at every allocation
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn main() -> ExitCode {
    peftlab_bench::main(&Registry::standard())
}
