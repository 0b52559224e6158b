//! Finding a container by what a person calls it: its id, its name, or as much of either as only it begins with.

use super::member::Member;
use super::record::{Lease, members_of};
use crate::error::{Error, Result};
use crate::refusal::quoted;
use crate::request::ContainerId;

/// The slice that `text` names and, unless all members left it, the member. In this order: an id, a name, a beginning.
///
/// # Errors
///
/// [`Error::NotFound`] when there is none, [`Error::Invalid`] with the candidates when there are several.
pub fn find<'a>(leases: &'a [Lease], text: &str) -> Result<(&'a Lease, Option<&'a Member>)> {
    if text.is_empty() {
        return Err(Error::invalid("container \"\"", "every name begins so; give an id or a name"));
    }
    let all = || leases.iter().flat_map(|lease| members_of(lease).map(move |member| (lease, member)));
    let id = |(lease, member): &(&'a Lease, Option<&'a Member>)| member.map_or(&lease.id, |m| &m.id).as_str();
    let name = |(_, member): &(&'a Lease, Option<&'a Member>)| member.and_then(|member| member.name.as_deref());
    if let Some(found) = all().find(|one| id(one) == text) {
        return Ok(found);
    }
    for fits in
        [&(|one: &(&'a Lease, Option<&'a Member>)| name(one) == Some(text)) as &dyn Fn(&_) -> bool, &|one: &(
            &'a Lease,
            Option<&'a Member>,
        )| {
            id(one).starts_with(text) || name(one).is_some_and(|name| name.starts_with(text))
        }]
    {
        let found: Vec<_> = all().filter(|one| fits(one)).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(*one),
            several => {
                let names: Vec<&str> = several.iter().take(8).map(id).collect();
                let why =
                    format!("{} containers are called so: {}; give more of the id", several.len(), names.join(", "));
                return Err(Error::invalid(format!("container {}", quoted(text)), why));
            }
        }
    }
    // What could be no container's name is a mistake.
    if !text.contains('/') || text.starts_with('.') {
        text.parse::<ContainerId>()?;
    }
    Err(Error::NotFound(format!(
        "no container {text} is attached: `portslice list` shows those that are",
        text = crate::refusal::one_line(text)
    )))
}
