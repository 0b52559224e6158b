//! TOML whose comments, order and spelling are kept. New tables are indented as their siblings are.

use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, InlineTable, Item, RawString, Table, TableLike};

use super::{Broken, Tree};

/// Reads a document.
pub fn parse(text: &str) -> Result<Box<dyn Tree>, Broken> {
    match text.parse::<DocumentMut>() {
        Ok(document) => Ok(Box::new(Toml(document))),
        Err(e) => {
            let before = &text[..e.span().map_or(0, |span| span.start).min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            Err(Broken { line, column, why: format!("not valid TOML: {}", e.message()) })
        }
    }
}

struct Toml(DocumentMut);

impl Tree for Toml {
    fn get(&self, path: &[String]) -> Option<Value> {
        let item = path.iter().try_fold(self.0.as_item(), |item, name| item.as_table_like()?.get(name))?;
        value_of(item)
    }

    fn set(&mut self, path: &[String], value: &Value) -> Result<(), String> {
        let Some((key, above)) = path.split_last() else { return Ok(()) };
        let mut indent = Indent { table: String::new(), key: String::new() };
        let mut item = self.0.as_item_mut();
        for (depth, name) in above.iter().enumerate() {
            let inline = item.is_inline_table();
            let table = item.as_table_like_mut().ok_or_else(|| above[depth.max(1) - 1].clone())?;
            indent = indent.below(table, name);
            item = table.entry(name).or_insert_with(|| if inline { InlineTable::new().into() } else { indent.table() });
        }
        let inline = item.is_inline_table();
        let table = item.as_table_like_mut().ok_or_else(|| above.last().cloned().unwrap_or_default())?;
        match table.get_mut(key) {
            // what stands around the value, a comment among it, stays
            Some(Item::Value(there)) => {
                let decor = there.decor().clone();
                *there = toml_of(value);
                *there.decor_mut() = decor;
            }
            _ => {
                table.insert(key, Item::Value(toml_of(value)));
                if let (false, Some(mut key)) = (inline, table.key_mut(key)) {
                    key.leaf_decor_mut().set_prefix(indent.key);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &[String]) {
        let Some((key, above)) = path.split_last() else { return };
        let table = above.iter().try_fold(self.0.as_item_mut(), |item, name| item.as_table_like_mut()?.get_mut(name));
        if let Some(table) = table.and_then(Item::as_table_like_mut) {
            table.remove(key);
        }
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// How far a table's header and its keys are moved in.
struct Indent {
    table: String,
    key: String,
}

impl Indent {
    /// That of the table `name` in a table: its own if it is there, else as the first sibling has it, else two more than the
    /// table above, if anything is indented.
    fn below(&self, table: &dyn TableLike, name: &str) -> Indent {
        let sibling = table.get(name).or_else(|| table.iter().map(|(_, item)| item).find(|item| item.is_table()));
        let deeper = |from: &str| if from.is_empty() { String::new() } else { format!("{from}  ") };
        let Some(sibling) = sibling.and_then(Item::as_table) else {
            let own = deeper(&self.table);
            return Indent { key: deeper(&own), table: own };
        };
        let first = sibling.iter().next().and_then(|(key, _)| sibling.key(key));
        let first = first.and_then(|key| last_line(key.leaf_decor().prefix()));
        // A table that is only named by those below it has no header of its own, and so no indent.
        let header = if sibling.is_implicit() {
            deeper(&self.table)
        } else {
            last_line(sibling.decor().prefix()).unwrap_or_default()
        };
        let key = first.filter(|_| sibling.iter().any(|(_, item)| item.is_value())).unwrap_or_else(|| deeper(&header));
        Indent { table: header, key }
    }

    /// A new table with this indent, whose header shows once it has keys.
    fn table(&self) -> Item {
        let mut table = Table::new();
        table.set_implicit(true);
        table.decor_mut().set_prefix(format!("\n{}", self.table));
        Item::Table(table)
    }
}

/// The blanks before a header or key on its own line.
fn last_line(prefix: Option<&RawString>) -> Option<String> {
    let text = prefix?.as_str()?;
    let line = text.rsplit('\n').next().unwrap_or_default();
    line.chars().all(|c| c == ' ' || c == '\t').then(|| line.to_owned())
}

fn toml_of(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(is) => (*is).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => values.iter().map(toml_of).collect::<Array>().into(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.as_str(), toml_of(value))).collect::<InlineTable>().into()
        }
        // TOML has none, and no key of ours is given it
        Value::Null => "".into(),
    }
}

/// As JSON, dates as their text.
fn value_of(item: &Item) -> Option<Value> {
    if let Some(table) = item.as_table_like() {
        let entries = table.iter().filter_map(|(key, item)| Some((key.to_owned(), value_of(item)?)));
        return Some(Value::Object(entries.collect::<Map<_, _>>()));
    }
    if let Some(tables) = item.as_array_of_tables() {
        return Some(tables.iter().filter_map(|table| value_of(&Item::Table(table.clone()))).collect());
    }
    Some(match item.as_value()? {
        toml_edit::Value::String(text) => text.value().as_str().into(),
        toml_edit::Value::Integer(number) => (*number.value()).into(),
        toml_edit::Value::Float(number) => (*number.value()).into(),
        toml_edit::Value::Boolean(is) => (*is.value()).into(),
        toml_edit::Value::Datetime(time) => time.value().to_string().into(),
        toml_edit::Value::Array(values) => {
            values.iter().filter_map(|value| value_of(&Item::Value(value.clone()))).collect()
        }
        toml_edit::Value::InlineTable(_) => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A document with these entries.
    pub fn text(tree: &Value) -> String {
        let mut document = DocumentMut::new();
        document.extend(items(tree));
        document.to_string()
    }

    fn items(tree: &Value) -> Vec<(String, Item)> {
        let item = |value: &Value| match value {
            Value::Object(_) => Item::Table(items(value).into_iter().collect()),
            other => Item::Value(toml_of(other)),
        };
        tree.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), item(value))).collect()
    }
}
