//! Which systemd unit a cgroup belongs to, by the cgroup's path alone.

/// Returns the unit whose own cgroup `path` is. `None`: the cgroup is below a unit, where systemd changes nothing (the
/// unit's Delegate=), or it is not systemd's at all.
///
/// The cgroup of a slice is below those of the slices that its name contains (systemd.slice(5)). The cgroup of any other
/// unit is directly in a slice. A user's own systemd has units below its service `user@UID.service`; the host's systemd
/// does not know them, so they count as cgroups below a unit.
pub fn unit_of(path: &str) -> Option<&str> {
    let mut slice = "";
    let mut names = path.strip_prefix('/')?.split('/').peekable();
    while let Some(name) = names.next() {
        // systemd puts an underscore before a name that could be taken for one of the kernel's files
        let name = name.strip_prefix('_').unwrap_or(name);
        match name.strip_suffix(".slice") {
            Some(nested) if is_child(nested, slice) => slice = nested,
            Some(_) => return None,
            None => return (names.peek().is_none() && is_unit(name)).then_some(name),
        }
        if names.peek().is_none() {
            return Some(name);
        }
    }
    None
}

/// Whether the slice `name` is directly in the slice `parent`. Both without ".slice"; "" is the root slice.
fn is_child(name: &str, parent: &str) -> bool {
    let own = if parent.is_empty() { Some(name) } else { name.strip_prefix(parent).and_then(|n| n.strip_prefix('-')) };
    own.is_some_and(|own| !own.is_empty() && !own.contains('-'))
}

/// Whether `name` is a unit that can hold a container. The other kinds of units cannot.
fn is_unit(name: &str) -> bool {
    [".scope", ".service"].iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}
