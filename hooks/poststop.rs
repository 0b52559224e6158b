//! OCI hook: takes back the slice of a container that ended. See `portslice::face::hook`.

/// musl's allocator maps and unmaps memory for every size class it meets, forty times in the life of a hook; this one
/// asks the kernel a few times for more.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    portslice::face::hook::poststop()
}
