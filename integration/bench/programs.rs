//! How much the kernel's verifier has to look at before it takes each program: what a load costs, and how far the programs
//! are from being refused, which is at a million instructions.

use super::judge::{Failure, Row, Table};
use super::product::Product;
use portslice::plan::host::bpf_directory;
use portslice::steer::find::{self, Found};
use portslice::steer::{Book, Programs};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// The programs of the data path, those at the sockets and those of port names, and the most instructions that a verifier may look
/// at in each: about a third more than Linux 6.1, 6.12 and 6.18 do, and 100 at least. A function that is verified apart counts in
/// each program that calls it.
const PROGRAMS: [(&str, u64); 27] = [
    ("from_wire", 22_000),
    ("from_tunnel", 20_000),
    ("from_lo", 19_000),
    ("from_container", 43_000),
    ("after_shaper", 21_000),
    ("host_flow", 100),
    ("inner_lo", 4_500),
    ("inner_eth", 100),
    ("sock_release", 480),
    ("sock_events", 20_000),
    ("bind4", 260),
    ("bind6", 260),
    ("post_bind4", 27_500),
    ("post_bind6", 29_500),
    ("keep_range", 630),
    ("name_bind4", 140),
    ("name_bind6", 140),
    ("name_sockname4", 130),
    ("name_sockname6", 130),
    ("name_peername4", 180),
    ("name_peername6", 220),
    ("name_connect4", 310),
    ("name_connect6", 460),
    ("name_sendmsg4", 310),
    ("name_sendmsg6", 460),
    ("name_recvmsg4", 180),
    ("name_recvmsg6", 220),
];

/// The table of the programs that `product` has loaded; those at the sockets and of port names are among them if it judges
/// `bind()`. `None` when the kernel does not tell. Fails for a program that has no limit here.
pub fn verified(product: &Product) -> Result<Option<Table>, Failure> {
    let [_, (_, state)] = &product.environment;
    let directory = bpf_directory(state);
    let (programs, book) = (Programs::at(&directory), Book::open(&directory)?.id()?);
    let loaded = find::installations()?.into_iter().find(|installation| installation.book == book);
    let mut rows = Vec::new();
    for Found { name, .. } in loaded.ok_or("no program is loaded")?.programs {
        let limit = PROGRAMS.iter().find(|(of, _)| *of == name).map(|(_, limit)| *limit);
        let limit = limit.ok_or_else(|| format!("the program {name} has no limit of instructions"))?;
        let Some(count) = instructions(&programs.open(&name)?)? else { return Ok(None) };
        rows.push(Row { cells: vec![name, count.to_string(), format!("<= {limit}")], met: Some(count <= limit) });
    }
    let header = ["program", "instructions verified", "limit"].map(String::from).into();
    Ok(Some(Table { header, rows }))
}

/// `verified_insns` of struct bpf_prog_info, which the kernel tells of an open program in /proc as well (since 5.16).
fn instructions(program: &OwnedFd) -> Result<Option<u64>, Failure> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let count = told.lines().find_map(|line| line.strip_prefix("verified_insns:"));
    Ok(count.map(|count| count.trim().parse()).transpose()?)
}
