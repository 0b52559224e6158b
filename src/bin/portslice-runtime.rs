//! The runtime shim: an OCI runtime that gives containers their slices, and another one that does the rest. See
//! `portslice::face::runtime`.

/// As in the hooks: it is run for every command of every container.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    portslice::face::runtime::main()
}
