//! Podman's `precreate` hook: the bundle's config.json comes on stdin, and goes edited to stdout (oci-hooks(5)).
//!
//! Podman says nothing else of the container. Its id is told by the one file that is always mounted from its own directory,
//! `.../overlay-containers/ID/userdata/.containerenv`: a container of a pod has others from that of the first one. The bundle
//! may be elsewhere. Podman itself is who creates the container, so what is leased is leased for as long as Podman, this
//! hook's parent, runs.

use std::io::{Read, Write, stdin, stdout};
use std::path::{Component, Path};

use super::argv::Call;
use super::give::{Given, Target, give};
use super::load;
use crate::error::{Error, Result};
use crate::host::process::Worker;
use crate::oci::asked::Asked;

/// No bundle comes near it.
const LONGEST: u64 = 16 << 20;

/// Runs the hook.
pub fn run(call: &Call) -> Result<()> {
    let mut text = Vec::new();
    let failed =
        |doing: &str, e: std::io::Error| Error::Failed(format!("cannot {doing} the bundle's config.json: {e}"));
    stdin().take(LONGEST).read_to_end(&mut text).map_err(|e| failed("read", e))?;
    let given = edited(&text, call)?;
    let edited = given.as_ref().map_or(text.as_slice(), |(_, text)| text);
    stdout().write_all(edited).and_then(|()| stdout().flush()).map_err(|e| {
        given.iter().for_each(|(given, _)| Given::take_back(given));
        failed("write", e)
    })
}

/// The edited bundle; `None` where it is to stay as it is, which is also so where nothing tells whose it is: the hook that
/// attaches will do without.
fn edited(text: &[u8], call: &Call) -> Result<Option<(Given, Vec<u8>)>> {
    let Some(asked) = Asked::read(text)? else { return Ok(None) };
    let Some((id, directory)) = asked.container_environment.as_deref().and_then(told_by) else { return Ok(None) };
    let Some(worker) = Worker::of(nix::unistd::getppid().as_raw() as u32) else { return Ok(None) };
    give(text, &Target { id, bundle: None, directory, worker }, &|| load(call))
}

/// The id, and a container's own directory, by a file in that.
fn told_by(source: &Path) -> Option<(&str, &Path)> {
    let directory = source.ancestors().find(|path| path.file_name().is_some_and(|name| name == "userdata"))?;
    let mut above = directory.parent()?.components().rev();
    let (id, storage) = (above.next()?, above.next()?);
    let (Component::Normal(id), Component::Normal(storage)) = (id, storage) else { return None };
    let is_ours = storage.to_str()?.ends_with("-containers");
    Some((id.to_str().filter(|_| is_ours)?, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_tells_whose_directory_it_is() {
        let told = |path: &str| told_by(Path::new(path)).map(|(id, at)| (id.to_owned(), at.display().to_string()));
        let at = "/run/containers/storage/overlay-containers/3f2a/userdata";
        assert_eq!(told(&format!("{at}/.containerenv")), Some(("3f2a".to_owned(), at.to_owned())));
        for other in ["/home/userdata/x", "/data/3f2a/userdata/x", "proc", "/"] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
