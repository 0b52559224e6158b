//! The plugin that netavark runs for networks of the driver `portslice`. See `portslice::face::netavark`.

/// As in the hooks: setup and teardown are run once a container too.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    portslice::face::netavark::main()
}
