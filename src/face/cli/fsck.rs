//! `portslice fsck`.

use std::process::ExitCode;

use super::args::Fsck;
use super::{print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::slice::fsck::{Difference, fsck, rebuild};

pub fn run(config: &Config, args: &Fsck) -> Result<ExitCode> {
    let differences = if args.rebuild { rebuild(config, args.dry_run)? } else { fsck(config)? };
    if args.json {
        print_json(&differences)?;
    } else {
        print(&differences.iter().map(line).collect::<String>())?;
    }
    let left = differences.iter().any(|difference| !difference.mended);
    Ok(if left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(difference: &Difference) -> String {
    let Difference { of, what, mended, .. } = difference;
    format!("{of}: {what}{}\n", if *mended { " (mended)" } else { "" })
}
