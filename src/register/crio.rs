//! CRI-O: a runtime handler `portslice` in a file of its own, and the hooks where CRI-O looks for them. CRI-O calls CNI for
//! every pod, so the network is the CNI plugin's.
//!
//! `allowed_annotations` is left alone: CRI-O knows all names that may stand there and does not start with another one; hooks
//! and runtimes see every annotation of a pod anyway.

use std::fs;
use std::path::Path;

use super::document::{Document, Edit, Format};
use super::files::{Check, Content, Wanted};
use super::podman;
use super::system::ask;
use super::{Desk, Engine, Plan};
use crate::error::{Error, Result};

const FILE: &str = "/etc/crio/crio.conf.d/50-portslice.conf";
const MAIN: &str = "/etc/crio/crio.conf";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let crio = desk.engine("crio")?;
    let runtime = desk.system.program("portslice-runtime")?.display().to_string();
    let handler = ["crio", "runtime", "runtimes", "portslice"];
    let edits = [Edit::new(&handler, "runtime_path", runtime), Edit::new(&handler, "runtime_type", "oci")];
    let mut text = Document::parse(Format::Toml, "", FILE)?;
    text.apply(&edits)?;
    let text = format!(
        "# Written by `portslice setup crio`; `portslice setup crio --undo` removes it.\n{}",
        text.text().trim_start()
    );
    let mut file = Wanted::new(FILE, Content::Whole(text));
    let mut then = Vec::new();
    match crio {
        Some(program) => file.check = Some(Box::new(move |candidate: &Path| reads(&program, candidate)) as Check),
        None => then.push(desk.system.unasked("crio")),
    }
    let mut wanted = vec![file];
    wanted.extend(podman::hooks(desk.system, &directory(desk)?)?);
    let mut plan = Plan { wanted, then }.reload(Engine::Crio);
    plan.then.push(
        "pods ask by annotations, under the RuntimeClass whose handler is portslice; the network is the CNI \
                    plugin's (`portslice setup kubernetes`)"
            .to_owned(),
    );
    Ok(plan)
}

/// The directory of hooks that CRI-O reads: the first of those that its files name, the last file's word counting.
fn directory(desk: &Desk<'_>) -> Result<String> {
    let drop_ins = desk.system.at(Path::new(FILE).parent().unwrap_or(Path::new("/")));
    let mut files: Vec<_> = fs::read_dir(drop_ins).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, desk.system.at(Path::new(MAIN)));
    let mut chosen = podman::COMMON.to_owned();
    for path in files {
        let Ok(bytes) = crate::file::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let document = Document::parse(Format::Toml, &text, path.display().to_string())?;
        if let Some(directories) = document.get(&["crio", "runtime", "hooks_dir"]) {
            let first = directories.as_array().and_then(|list| list.first()?.as_str().map(str::to_owned));
            chosen = first.ok_or_else(|| {
                Error::Refused(format!(
                    "{}, key crio.runtime.hooks_dir: CRI-O reads no directory of hooks: name one",
                    path.display()
                ))
            })?;
        }
    }
    Ok(chosen)
}

/// Asks CRI-O whether it can read the file, with all that it reads besides.
fn reads(crio: &Path, candidate: &Path) -> Result<Vec<String>> {
    let answer = ask(crio, &["--config".as_ref(), candidate.as_os_str(), "config".as_ref()])?;
    match answer.ok {
        true => Ok(Vec::new()),
        false => Err(Error::Refused(format!("crio would not load {FILE}: {}; nothing was changed", answer.complaint))),
    }
}
