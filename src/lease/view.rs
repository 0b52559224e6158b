//! A lease as others see it: the record, and what is told beside it for one of its members.

use serde_json::{Map, Value, json};

use super::member::Member;
use super::record::Lease;

/// The lease as JSON, with what belongs to `member` (the first one for `None`) at the top level as well: most slices have
/// one member, and whoever asks for a container need not look for it.
pub fn view(lease: &Lease, member: Option<&Member>) -> Value {
    let mut view = object(lease);
    let Some(member) = member.or(lease.members.first()) else {
        view.insert("pid".into(), Value::Null);
        return Value::Object(view);
    };
    let own = object(member);
    for key in ["pid", "cgroups", "cpu", "bundle_cpus", "labels"] {
        if let Some(value) = own.get(key) {
            view.insert(key.into(), value.clone());
        }
    }
    if let (Some(Value::Object(all)), Some(Value::Object(cpus))) = (view.get_mut("asked"), own.get("asked")) {
        all.extend(cpus.clone());
    }
    Value::Object(view)
}

/// The same in the stage `gone`: its container ended, and nobody told.
pub fn gone(mut view: Value) -> Value {
    view["stage"] = json!("gone");
    view
}

fn object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
