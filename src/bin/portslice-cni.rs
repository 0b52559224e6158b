//! CNI plugin of the type `portslice`. See `portslice::face::cni`.

/// musl's allocator maps and unmaps memory for every size class it meets; this one asks the kernel a few times for more.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    portslice::face::cni::main()
}
