//! The command line. See `portslice::face::cli`.

/// As in the hooks: attach and detach are run once a container too.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    portslice::face::cli::main()
}
