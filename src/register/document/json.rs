//! JSON whose spelling is kept: only the lines that change are written anew, in the file's own indentation.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;

use super::{Broken, Tree};

/// Strict: engines refuse comments and trailing commas.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// An empty text is an empty object.
pub fn parse(text: &str) -> Result<Box<dyn Tree>, Broken> {
    let root = if text.trim().is_empty() {
        CstRootNode::parse("{}\n", &STRICT)
    } else {
        let broken = |line, column, why: &str| Broken { line, column, why: why.to_owned() };
        // Its words are those that people know, and it counts lines and columns as they do.
        let value = serde_json::from_str::<Value>(text).map_err(|e| {
            let why = e.to_string();
            broken(e.line(), e.column(), why.split(" at line ").next().unwrap_or(&why))
        })?;
        if !value.is_object() {
            return Err(broken(1, 1, "not an object in braces"));
        }
        CstRootNode::parse(text, &STRICT)
    };
    match root {
        Ok(root) => Ok(Box::new(Json(root))),
        Err(e) => Err(Broken { line: e.line_display(), column: e.column_display(), why: e.kind().to_string() }),
    }
}

struct Json(CstRootNode);

impl Json {
    fn object(&self, path: &[String]) -> Option<CstObject> {
        path.iter().try_fold(self.0.object_value()?, |object, name| object.object_value(name))
    }
}

impl Tree for Json {
    fn get(&self, path: &[String]) -> Option<Value> {
        let text = match path.split_last() {
            None => self.0.to_string(),
            Some((key, above)) => self.object(above)?.get(key)?.value()?.to_string(),
        };
        serde_json::from_str(&text).ok()
    }

    fn set(&mut self, path: &[String], value: &Value) -> Result<(), String> {
        let Some((key, above)) = path.split_last() else { return Ok(()) };
        let mut object = self.0.object_value_or_set();
        for name in above {
            object = object.object_value_or_create(name).ok_or_else(|| name.clone())?;
        }
        match object.get(key) {
            Some(property) => property.set_value(input(value)),
            None => {
                object.append(key, input(value));
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &[String]) {
        let Some((key, above)) = path.split_last() else { return };
        if let Some(property) = self.object(above).and_then(|object| object.get(key)) {
            property.remove();
        }
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(is) => CstInputValue::Bool(*is),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(map) => {
            CstInputValue::Object(map.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}
