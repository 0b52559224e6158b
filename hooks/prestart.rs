//! OCI hook: gives a container that is being created its slice of the host. See `portslice::face::hook`.

fn main() -> std::process::ExitCode {
    portslice::face::hook::prestart()
}
