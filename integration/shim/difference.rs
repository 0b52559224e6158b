//! What differs between a bundle and the same bundle behind the shim, found without the code that edits: everything that is not
//! meant to differ is a finding, down to the text of a number.

use portslice::oci::Object;
use serde_json::value::RawValue;

/// Everything that differs and is not what a slice needs, one line each.
pub fn unintended(before: &[u8], after: &[u8]) -> Vec<String> {
    let parsed = |text: &[u8]| Object::parse(text).expect("a bundle");
    let mut all = Vec::new();
    objects("", &parsed(before), &parsed(after), &mut all);
    all.retain(|difference| !is_intended(difference));
    all
}

/// `+ /path` for what is new, `- /path` for what is gone, `! /path` for what is another.
fn objects(at: &str, before: &Object, after: &Object, all: &mut Vec<String>) {
    let keys = |object: &Object| object.members().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    let (old, new) = (keys(before), keys(after));
    all.extend(old.iter().filter(|key| !new.contains(key)).map(|key| format!("- {at}/{key}")));
    for (key, text) in after.members() {
        match before.members().find(|(known, _)| *known == key) {
            None => added(&format!("{at}/{key}"), text, all),
            Some((_, was)) => values(&format!("{at}/{key}"), was, text, all),
        }
    }
    let kept: Vec<&String> = new.iter().filter(|key| old.contains(key)).collect();
    let order: Vec<&String> = old.iter().filter(|key| new.contains(key)).collect();
    if kept != order {
        all.push(format!("! {at}: the order of its keys"));
    }
    // What is new stands behind what was there.
    if new.iter().position(|key| !old.contains(key)).is_some_and(|first| first < order.len()) {
        all.push(format!("! {at}: something new before what was there"));
    }
}

/// Something new: an object or a list by each of its members.
fn added(at: &str, text: &str, all: &mut Vec<String>) {
    match (Object::parse(text.as_bytes()), list(text)) {
        (Ok(object), _) => objects(at, &Object::default(), &object, all),
        (_, Some(items)) if at != "/process/env" => {
            items.iter().for_each(|item| all.push(format!("+ {at}/- {}", item.get())))
        }
        _ => all.push(format!("+ {at} {text}")),
    }
}

fn values(at: &str, before: &str, after: &str, all: &mut Vec<String>) {
    if before == after {
        return;
    }
    match (Object::parse(before.as_bytes()), Object::parse(after.as_bytes())) {
        (Ok(before), Ok(after)) => return objects(at, &before, &after, all),
        (_, Ok(after)) if before == "null" => return objects(at, &Object::default(), &after, all),
        _ => {}
    }
    let before_items = if before == "null" { Some(Vec::new()) } else { list(before) };
    match (before_items, list(after)) {
        (Some(before), Some(after)) if at == "/process/env" => variables(&before, &after, all),
        (Some(before), Some(after)) => {
            let same = before.iter().zip(&after).take_while(|(one, other)| one.get() == other.get()).count();
            if same < before.len() {
                all.push(format!("! {at}: an item that was there"));
            }
            all.extend(after.iter().skip(before.len()).map(|item| format!("+ {at}/- {}", item.get())));
        }
        _ => all.push(format!("! {at} {after}")),
    }
}

/// The environment: what was there is as it was, but for what an earlier edit had put there, which is its block and what stands
/// behind that; ours is behind all.
fn variables(before: &[Box<RawValue>], after: &[Box<RawValue>], all: &mut Vec<String>) {
    let own = |list: &[Box<RawValue>]| {
        let texts = list.iter().map(|entry| entry.get().trim_matches('"').to_owned());
        let mut edited = false;
        let theirs = texts.filter(|text| {
            edited |= text.starts_with("PORTSLICE_BLOCK=");
            let name = text.split('=').next().unwrap_or_default();
            let number =
                name.strip_prefix("PORT").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            !(edited && (number || name == "PORTS" || name == "PORTSLICE_BLOCK"))
        });
        theirs.collect::<Vec<_>>()
    };
    if own(before) != own(after) {
        all.push(format!("! /process/env: a variable of the container's own: {:?} {:?}", own(before), own(after)));
    }
}

fn list(text: &str) -> Option<Vec<Box<RawValue>>> {
    serde_json::from_str(text).ok()
}

fn is_intended(difference: &str) -> bool {
    const HOOKS: [&str; 2] = ["portslice-prestart", "portslice-poststop"];
    let Some((sign, rest)) = difference.split_once(' ') else { return false };
    let (path, value) = rest.split_once(' ').unwrap_or((rest, ""));
    let new = sign == "+";
    match path {
        "/hooks/createRuntime/-" => new && value.contains(HOOKS[0]),
        "/hooks/poststop/-" => new && value.contains(HOOKS[1]),
        "/mounts/-" => new && value.contains("\"destination\":\"/etc/resolv.conf\""),
        "/linux/sysctl/net.ipv4.ip_local_port_range" => true,
        "/linux/resources/cpu/shares" | "/linux/resources/cpu/quota" | "/linux/resources/cpu/period" => sign != "-",
        "/linux/resources/unified/cpu.weight" | "/linux/resources/unified/cpu.max" => sign != "-",
        "/process/env" => new,
        _ => new && path.starts_with("/annotations/portslice/"),
    }
}
