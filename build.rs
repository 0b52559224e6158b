//! Compiles the data path with clang into `$OUT_DIR/steer.o`, which `src/steer/program.rs` embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    let sources = Path::new("src/steer/bpf");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.o");

    let mut command = Command::new(&clang);
    // -g: the BTF of the map definitions; v2 is the newest instruction set a 5.10 kernel and every clang since 8 share
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v2"]);
    // <asm/types.h> lives under the multiarch directory, which clang does not search for the bpf target
    let multiarch = PathBuf::from(format!("/usr/include/{}-linux-gnu", env::consts::ARCH));
    if multiarch.is_dir() {
        command.arg("-I").arg(multiarch);
    }
    // A build that plays another version, for the tests of an upgrade: with 1 all its programs differ, with 2 its formats as
    // well (`src/format.rs`). No other build sets this.
    println!("cargo:rerun-if-env-changed=PORTSLICE_TEST_FORMAT");
    println!("cargo:rustc-check-cfg=cfg(raised)");
    if let Ok(format) = env::var("PORTSLICE_TEST_FORMAT") {
        command.arg(format!("-DTEST_FORMAT={format}"));
        if format == "2" {
            println!("cargo:rustc-cfg=raised");
        }
    }
    command.arg("-c").arg(sources.join("steer.bpf.c")).arg("-o").arg(&out);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail("clang could not compile src/steer/bpf/steer.bpf.c: is libbpf-dev (bpf_helpers.h) installed?"),
        Err(e) => fail(&format!("cannot run {clang} ({e}): portslice compiles its data path with it, install clang")),
    }
    // the debug sections are four fifths of the object, and every binary carries it
    for strip in ["llvm-strip", "llvm-strip-14", "llvm-strip-18", "llvm-strip-19"] {
        if Command::new(strip).arg("-g").arg(&out).status().is_ok_and(|s| s.success()) {
            break;
        }
    }
    // Nobody unwinds (panic = "abort"), so nobody searches for how; the table is a hundredth of what each start of a container
    // maps.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
    // hashing a hundred kilobytes anew for every container would cost a tenth of a hook's time
    let object = std::fs::read(&out).unwrap_or_default();
    println!("cargo:rustc-env=STEER_VERSION={:016x}", fnv1a(&object));
}

/// Tells one object from another. Not a secret, only an identity.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn fail(why: &str) -> ! {
    eprintln!("error: {why}");
    exit(1)
}
