//! Compiles the BPF programs with clang: the data path into `$OUT_DIR/steer.o`, which `src/steer/program.rs` embeds, the programs
//! at the sockets into `$OUT_DIR/sockets.o`, which `src/steer/sockets.rs` embeds, and those of port names into `$OUT_DIR/names.o`,
//! which `src/steer/naming.rs` embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    let sources = Path::new("src/steer/bpf");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=PORTSLICE_TEST_FORMAT");
    println!("cargo:rustc-check-cfg=cfg(raised)");
    let test_format = env::var("PORTSLICE_TEST_FORMAT").ok();
    if test_format.as_deref() == Some("2") {
        println!("cargo:rustc-cfg=raised");
    }
    let objects = [("steer", "v2"), ("sockets", "v3"), ("names", "v3")]
        .map(|object| compile(sources, object, test_format.as_deref()));
    // Nobody unwinds (panic = "abort"), so nobody searches for how; the table is a hundredth of what each start of a container
    // maps.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
    // all objects are one version; hashing a hundred kilobytes anew for every container would cost a tenth of a hook's time
    println!("cargo:rustc-env=STEER_VERSION={:016x}", fnv1a(&objects.concat()));
}

/// Compiles `NAME.bpf.c` for an instruction set to `$OUT_DIR/NAME.o` and returns the object. `test_format`: the build plays another version, for the
/// tests of an upgrade: with 1 all its programs differ, with 2 its formats as well (`src/format.rs`). No other build sets it.
fn compile(sources: &Path, (name, instructions): (&str, &str), test_format: Option<&str>) -> Vec<u8> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(format!("{name}.o"));
    let source = sources.join(format!("{name}.bpf.c"));
    let mut command = Command::new(&clang);
    // -g: the BTF of the map definitions; v2 is the newest instruction set a 5.10 kernel and every clang since 8 share. The programs
    // at the sockets need a newer kernel in any case, and v3's atomic instructions (clang 12).
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"]).arg(format!("-mcpu={instructions}"));
    // <asm/types.h> lives under the multiarch directory, which clang does not search for the bpf target
    let multiarch = PathBuf::from(format!("/usr/include/{}-linux-gnu", env::consts::ARCH));
    if multiarch.is_dir() {
        command.arg("-I").arg(multiarch);
    }
    command.args(test_format.map(|format| format!("-DTEST_FORMAT={format}")));
    command.arg("-c").arg(&source).arg("-o").arg(&out);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => {
            fail(&format!("clang could not compile {}: is libbpf-dev (bpf_helpers.h) installed?", source.display()))
        }
        Err(e) => fail(&format!("cannot run {clang} ({e}): portslice compiles its data path with it, install clang")),
    }
    // the debug sections are four fifths of the object, and every binary carries it
    for strip in ["llvm-strip", "llvm-strip-14", "llvm-strip-18", "llvm-strip-19"] {
        if Command::new(strip).arg("-g").arg(&out).status().is_ok_and(|s| s.success()) {
            break;
        }
    }
    std::fs::read(&out).unwrap_or_default()
}

/// Tells one object from another. Not a secret, only an identity.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn fail(why: &str) -> ! {
    eprintln!("error: {why}");
    exit(1)
}
