//! The command line. See `portslice::face::cli`.

fn main() -> std::process::ExitCode {
    portslice::face::cli::main()
}
