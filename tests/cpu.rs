//! CPU limits without a kernel: the formula, where they belong, writing them, and what systemd is told. Also what is read
//! of a container's cgroups.

#[path = "cpu/formula.rs"]
mod formula;
#[path = "cpu/place.rs"]
mod place;
#[path = "cpu/systemd.rs"]
mod systemd;
#[path = "cpu/tree.rs"]
mod tree;
#[path = "cpu/usage.rs"]
mod usage;
#[path = "cpu/write.rs"]
mod write;
