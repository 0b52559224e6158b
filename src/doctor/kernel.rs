//! The kernel: every piece that containers need, found out by trying it.

use super::{Finding, fail, ok, unseen, warn};
use crate::host::features::{self, FQ_CODEL, Probe};

/// Names what is missing. What this kernel does well without is no finding.
pub fn look() -> Vec<Finding> {
    let probed = match features::probe() {
        Ok(probed) => probed,
        Err(e) => return vec![unseen("kernel", &e)],
    };
    let missing: Vec<&Probe> = probed.pieces.iter().filter(|piece| piece.missing.is_some()).collect();
    match missing.as_slice() {
        [] => vec![ok("kernel", "has everything that containers need")],
        [one] if one.name == FQ_CODEL => {
            vec![ok("kernel", "has everything that containers need; packets wait in a plain queue, without fq_codel")]
        }
        missing => missing.iter().filter(|piece| piece.name != FQ_CODEL).map(|piece| absent(piece)).collect(),
    }
}

fn absent(piece: &Probe) -> Finding {
    let seen = format!("{} cannot be had: {}", piece.name, piece.missing.as_deref().unwrap_or_default());
    // `modprobe sch_htb, or build with CONFIG_NET_SCH_HTB`: only the first is a command
    let command = piece.remedy.split(',').next().filter(|command| command.starts_with("modprobe")).unwrap_or_default();
    if piece.required {
        fail("kernel", seen, format!("no container can start; {}", piece.remedy), command)
    } else {
        warn("kernel", seen, format!("bandwidth limits are refused; {}", piece.remedy), command)
    }
}
