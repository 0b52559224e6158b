//! OCI hook: takes back the slice of a container that ended. See `portslice::face::hook`.

fn main() -> std::process::ExitCode {
    portslice::face::hook::poststop()
}
