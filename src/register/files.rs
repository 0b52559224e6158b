//! The files of a plan: compared with what is there, checked, written, restored.
//!
//! A change is decided completely, and the engine is asked about it, before anything is written.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use similar::TextDiff;

use super::Engine;
use super::document::{Document, Edit, Format};
use super::record::{Record, What, Written};
use super::system::System;
use crate::error::{Error, Result};
use crate::file;

/// Asks the engine about a file before it is put in place. Returns what the operator has to know.
pub type Check = Box<dyn Fn(&Path) -> Result<Vec<String>>>;

/// A file or link that an engine is to have.
pub struct Wanted {
    /// Where, without the root.
    pub path: PathBuf,
    /// What.
    pub content: Content,
    /// Who is asked whether it will do.
    pub check: Option<Check>,
}

/// See [`Wanted`].
pub enum Content {
    /// A file that is ours.
    Whole(String),
    /// Keys in a file that others have a say in.
    Keys(Format, Vec<Edit>),
    /// A symbolic link to a program of ours.
    Link(PathBuf),
}

impl Wanted {
    /// Without a check.
    pub fn new(path: impl Into<PathBuf>, content: Content) -> Self {
        Wanted { path: path.into(), content, check: None }
    }

    /// A link at `place` to a program of ours; `None` where that is installed there itself, as a package may have it.
    pub fn program(system: &System, place: &Path, name: &str) -> Result<Option<Self>> {
        if system.is_installed_at(place, name)? {
            return Ok(None);
        }
        Ok(Some(Wanted::new(place, Content::Link(system.program(name)?))))
    }
}

/// What happens to one file or link.
pub struct Change {
    path: PathBuf,
    /// Where it is, links followed and below the root.
    real: PathBuf,
    from: Option<String>,
    to: Option<String>,
    /// What is to be remembered of it; `None` when it is taken back.
    written: Option<Written>,
    is_link: bool,
    check: Option<Check>,
    /// Why it is not as one might expect.
    pub note: Option<String>,
}

impl Change {
    /// Is everything as it is to be?
    pub fn is_none(&self) -> bool {
        self.from == self.to
    }

    /// What was done, when it was.
    pub fn done(&self) -> Option<String> {
        let path = self.path.display();
        Some(match (&self.from, &self.to) {
            (from, to) if from == to => return None,
            (None, Some(target)) if self.is_link => format!("linked {path} to {target}"),
            (None, Some(_)) => format!("wrote {path}"),
            (Some(_), Some(_)) => format!("changed {path}"),
            (_, None) => format!("removed {path}"),
        })
    }
}

/// A configuration file as it would be without our keys.
pub fn base(system: &System, record: &Record, path: &Path) -> Result<Option<String>> {
    let current = text(&real(system, path)?)?;
    match record.of(path) {
        Some(written) => without_ours(written, current),
        None => Ok(current),
    }
}

/// What is to be done, so that a plan holds: changes to what it wants, and to what an earlier one wanted and it does not.
pub fn compare(system: &System, record: &Record, wanted: Vec<Wanted>) -> Result<Vec<Change>> {
    let gone = record.files.iter().filter(|old| !wanted.iter().any(|new| new.path == old.path));
    let mut changes = restore(system, &gone.cloned().collect::<Vec<_>>())?;
    for one in wanted {
        changes.push(match &one.content {
            Content::Link(target) => link(system, record, &one.path, target)?,
            Content::Whole(to) => whole(system, record, &one, to)?,
            Content::Keys(format, edits) => keys(system, record, &one, *format, edits)?,
        });
        if let Some(change) = changes.last_mut() {
            change.check = one.check;
        }
    }
    Ok(changes)
}

/// What takes everything back that was written.
pub fn restore(system: &System, written: &[Written]) -> Result<Vec<Change>> {
    written.iter().rev().map(|written| back(system, written)).collect()
}

/// As a unified diff. A link is shown as a file whose text is its target.
pub fn diff(changes: &[Change]) -> String {
    let mut all = String::new();
    for change in changes.iter().filter(|change| !change.is_none()) {
        let arrow = |text: &Option<String>| match text {
            Some(target) if change.is_link => format!("-> {target}\n"),
            text => text.clone().unwrap_or_default(),
        };
        let (from, to) = (arrow(&change.from), arrow(&change.to));
        let path = change.path.display().to_string();
        let name = |text: &Option<String>| if text.is_some() { path.clone() } else { "/dev/null".to_owned() };
        let diff = TextDiff::from_lines(&from, &to);
        all += &diff.unified_diff().header(&name(&change.from), &name(&change.to)).to_string();
    }
    all
}

/// Has the engine look at what is to be put in place. `dry`: whoever may not write there is told that nobody looked.
pub fn check(changes: &[Change], dry: bool) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for change in changes.iter().filter(|change| !change.is_none()) {
        let (Some(check), Some(to)) = (&change.check, &change.to) else { continue };
        // Beside the file, so that what it names relative to itself is found, or as near as there is a directory.
        let near = change.real.ancestors().skip(1).find(|directory| directory.is_dir()).unwrap_or(Path::new("/"));
        let name = change.real.file_name().unwrap_or_default().to_string_lossy();
        // A dry run keeps nobody else out, and nobody keeps it out.
        let beside = near.join(format!(".{name}.portslice-check-{}", std::process::id()));
        // It may hold what not everybody may read.
        match write_new(&beside, to, fs::metadata(&change.real).ok().as_ref()) {
            Err(e) if dry => {
                said.push(format!("the engine was not asked about {}: {e}", change.path.display()));
                continue;
            }
            written => written?,
        }
        let answer = check(&beside);
        file::remove(&beside).map_err(Error::file("remove", &beside))?;
        said.extend(answer?);
    }
    Ok(said)
}

/// Remembers, then writes.
pub fn write(system: &System, engine: Engine, old: &Record, changes: &[Change]) -> Result<()> {
    let files = changes.iter().filter_map(|change| change.written.clone()).collect();
    let mut record = Record { files, made: old.made.clone() };
    for change in changes.iter().filter(|change| change.to.is_some()) {
        let mut missing: Vec<PathBuf> = change
            .path
            .ancestors()
            .skip(1)
            .take_while(|directory| !system.has(directory))
            .map(Path::to_path_buf)
            .collect();
        missing.retain(|directory| !record.made.contains(directory));
        record.made.extend(missing.into_iter().rev());
    }
    record.keep(system, engine)?;
    carry_out(changes).inspect_err(|_| {
        // Nothing is written any more: what was remembered before is true again.
        let kept = if old.files.is_empty() { record.remove(system, engine) } else { old.keep(system, engine) };
        kept.unwrap_or_else(|e| log::warn!("{e}"));
    })
}

/// Writes, replaces and removes: everything, or nothing.
pub fn carry_out(changes: &[Change]) -> Result<()> {
    let changes: Vec<&Change> = changes.iter().filter(|change| !change.is_none()).collect();
    for (done, change) in changes.iter().enumerate() {
        if let Err(e) = put(change, change.to.as_deref()) {
            for change in changes[..done].iter().rev() {
                put(change, change.from.as_deref()).unwrap_or_else(|e| log::warn!("{e}"));
            }
            return Err(e);
        }
    }
    Ok(())
}

/// Puts a text or a link in its place, or removes what is there.
fn put(change: &Change, content: Option<&str>) -> Result<()> {
    let real = &change.real;
    let Some(content) = content else { return file::remove(real).map_err(Error::file("remove", real)) };
    let directory = real.parent().unwrap_or(real);
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(Error::file("create", directory))?;
    let beside = beside(real);
    if change.is_link {
        file::remove(&beside).and_then(|()| symlink(content, &beside)).map_err(Error::file("link", real))?;
    } else {
        write_new(&beside, content, fs::metadata(real).ok().as_ref())?;
    }
    fs::rename(&beside, real).map_err(Error::file("replace", real))
}

fn keys(system: &System, record: &Record, one: &Wanted, format: Format, edits: &[Edit]) -> Result<Change> {
    let real = real(system, &one.path)?;
    let current = text(&real)?;
    let before = base(system, record, &one.path)?;
    let merged = |text: &Option<String>| -> Result<String> {
        let mut document =
            Document::parse(format, text.as_deref().unwrap_or_default(), one.path.display().to_string())?;
        document.apply(edits)?;
        Ok(document.text())
    };
    // What was edited around our keys stays as it is: merging it once more would only move them.
    let same_keys = matches!(record.of(&one.path), Some(Written { what: What::Text { edits: Some((_, old)), .. }, .. }) if old == edits);
    let to = if same_keys && current.is_some() { merged(&current)? } else { merged(&before)? };
    let what = What::Text { before, after: to.clone(), edits: Some((format, edits.to_vec())) };
    Ok(Change { from: current, to: Some(to), ..Change::of(&one.path, real, what) })
}

fn whole(system: &System, record: &Record, one: &Wanted, to: &str) -> Result<Change> {
    let real = real(system, &one.path)?;
    let current = text(&real)?;
    let ours = record.of(&one.path).and_then(|written| match &written.what {
        What::Text { before, after, .. } => Some((before, after)),
        What::Link { .. } => None,
    });
    if let (Some(text), Some((before, after))) = (&current, ours)
        && (text != after && after == to)
    {
        // Somebody made it his own since, and there is nothing new to put in it.
        let what = What::Text { before: before.clone(), after: after.clone(), edits: None };
        return Ok(Change { from: current.clone(), to: current, ..Change::of(&one.path, real, what) });
    }
    if current.as_deref().is_some_and(|text| text != to && ours.is_none_or(|(_, after)| text != after)) {
        let why = "it is there, and not as setup writes it: move it away and run setup again";
        return Err(Error::invalid(one.path.display().to_string(), why));
    }
    // One that was there already, as a package may have it, is not ours to remove.
    let before = ours.map_or_else(|| current.clone(), |(before, _)| before.clone());
    let what = What::Text { before, after: to.to_owned(), edits: None };
    Ok(Change { from: current, to: Some(to.to_owned()), ..Change::of(&one.path, real, what) })
}

fn link(system: &System, record: &Record, path: &Path, target: &Path) -> Result<Change> {
    let real = system.at(path);
    let current = fs::read_link(&real).ok();
    let ours = record.of(path).and_then(|written| match &written.what {
        What::Link { target, before } => Some((target, *before)),
        What::Text { .. } => None,
    });
    let is_there = current.as_deref() == Some(target);
    if !is_there && current.as_ref() != ours.map(|(target, _)| target).filter(|_| current.is_some())
        || (current.is_none() && real.exists())
    {
        let why = format!("it is there, and no link to {}: move it away and run setup again", target.display());
        return Err(Error::invalid(path.display().to_string(), why));
    }
    let before = ours.map_or(is_there, |(_, before)| before);
    let change = Change::of(path, real, What::Link { target: target.to_owned(), before });
    let from = current.map(|target| target.display().to_string());
    Ok(Change { from, to: Some(target.display().to_string()), is_link: true, ..change })
}

/// Takes one file or link back.
fn back(system: &System, written: &Written) -> Result<Change> {
    let path = &written.path;
    if let What::Link { target, before } = &written.what {
        let real = system.at(path);
        let from = fs::read_link(&real).ok().filter(|there| there == target).map(|target| target.display().to_string());
        let to = from.clone().filter(|_| *before);
        let stays = from.is_none() && real.symlink_metadata().is_ok();
        let note = stays.then(|| format!("{} was changed since setup: it stays, remove it by hand", path.display()));
        let change = Change::of(path, real, written.what.clone());
        return Ok(Change { from, to, is_link: true, written: None, note, ..change });
    }
    let real = real(system, path)?;
    let current = text(&real)?;
    let mut change = Change { from: current.clone(), ..Change::of(path, real, written.what.clone()) };
    change.written = None;
    change.to = without_ours(written, current.clone())?;
    let What::Text { after, edits, before } = &written.what else { return Ok(change) };
    if current.as_ref().is_some_and(|text| text != after && Some(text) != before.as_ref()) {
        let what = match edits {
            Some(_) if change.is_none() => ", and has no key as setup wrote it: it stays as it is",
            Some(_) => ": only our keys are taken out",
            None => ": it stays, remove it by hand",
        };
        change.note = Some(format!("{} was changed since setup{what}", path.display()));
    }
    Ok(change)
}

/// A file's text without what is ours.
fn without_ours(written: &Written, current: Option<String>) -> Result<Option<String>> {
    let What::Text { before, after, edits } = &written.what else { return Ok(current) };
    let Some(text) = current else { return Ok(None) };
    if text == *after {
        return Ok(before.clone());
    }
    let Some((format, edits)) = edits else { return Ok(Some(text)) };
    let place = written.path.display().to_string();
    let before = Document::parse(*format, before.as_deref().unwrap_or_default(), place.clone())?;
    let mut document = Document::parse(*format, &text, place)?;
    document.revert(edits, &before)?;
    Ok(Some(document.text()))
}

impl Change {
    fn of(path: &Path, real: PathBuf, what: What) -> Self {
        let written = Some(Written { path: path.to_owned(), what });
        Change { path: path.to_owned(), real, from: None, to: None, written, is_link: false, check: None, note: None }
    }
}

/// Where a file is: a link is followed, so that it stays one. Links of another system mean that system's files.
fn real(system: &System, path: &Path) -> Result<PathBuf> {
    let root = system.at(Path::new("/"));
    let directory = File::open(&root).map_err(Error::file("open", &root))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match (openat2(&directory, path, how), path.parent(), path.file_name()) {
        (Ok(found), ..) => {
            let told = format!("/proc/self/fd/{}", found.as_raw_fd());
            fs::read_link(&told).map_err(Error::file("read", told))
        }
        (Err(Errno::ENOENT), Some(parent), Some(name)) => {
            let at = real(system, parent)?.join(name);
            if at.is_symlink() {
                let why = "it is a link that leads nowhere: make what it leads to, or remove it";
                return Err(Error::invalid(at.display().to_string(), why));
            }
            Ok(at)
        }
        (Err(e), ..) => Err(Error::file("find", system.at(path))(e.into())),
    }
}

fn text(path: &Path) -> Result<Option<String>> {
    let bytes = match file::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::file("read", path))?,
    };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| Error::invalid(path.display().to_string(), "not UTF-8; nothing was changed: mend it first"))
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.portslice-new"))
}

/// Writes a file with the mode and owner that another one has.
fn write_new(path: &Path, text: &str, like: Option<&Metadata>) -> Result<()> {
    let mode = like.map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        if let Some(like) = like {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
                std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            file.set_permissions(like.permissions())?;
        }
        file.sync_all()
    };
    write().map_err(|e| {
        let _ = fs::remove_file(path);
        Error::file("write", path)(e)
    })
}
