//! A JSON object whose members are kept as the text they were given in.
//!
//! A bundle is written by an engine and read by a runtime, and both may know more of it than we do. Whoever changes one member
//! of an object leaves all others as they are, to the byte: numbers beyond 64 bits, unknown fields, the order of the keys.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// The members in their order. Of a key that is there twice the last value counts, as everywhere.
#[derive(Clone, Debug, Default)]
pub struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// The object that `text` is.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// The object as text.
    pub fn text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// The value of `key` as its text; `None` where there is none, or it is `null`.
    pub fn raw(&self, key: &str) -> Option<&RawValue> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        Some(&**value).filter(|value| value.get() != "null")
    }

    /// The value of `key`, if it is there and is a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    /// Puts a value in the place of another one, or behind all.
    pub fn set(&mut self, key: &str, value: &impl Serialize) -> serde_json::Result<()> {
        let value = to_raw_value(value)?;
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, there)) => *there = value,
            None => self.0.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// Changes the object that is the value of `key`. One that is not there is made, unless nothing comes of it.
    pub fn within(
        &mut self,
        key: &str,
        change: impl FnOnce(&mut Object) -> serde_json::Result<()>,
    ) -> serde_json::Result<()> {
        let before = self.raw(key);
        let mut object = before.map_or_else(|| Ok(Object::default()), |raw| Object::parse(raw.get().as_bytes()))?;
        let is_there = before.is_some();
        change(&mut object)?;
        if is_there || !object.0.is_empty() { self.set(key, &object) } else { Ok(()) }
    }

    /// The items of the list that is the value of `key`; none where there is no list.
    pub fn list(&self, key: &str) -> serde_json::Result<Vec<Box<RawValue>>> {
        self.raw(key).map_or_else(|| Ok(Vec::new()), |raw| serde_json::from_str(raw.get()))
    }

    /// Puts an item behind all others of the list that is the value of `key`.
    pub fn append(&mut self, key: &str, item: &impl Serialize) -> serde_json::Result<()> {
        let mut items = self.list(key)?;
        items.push(to_raw_value(item)?);
        self.set(key, &items)
    }

    /// Every key with the text of its value.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.get()))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    match members.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, there)) => *there = value,
                        None => members.push((key, value)),
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_to_the_byte() {
        let text =
            br#"{"b": 123456789012345678901234567890, "a":{"y":1e999,"x":  [1.0 ,2]}, "n":null,"b2":"\u00e9\/"}"#;
        let mut object = Object::parse(text).unwrap();
        object.within("a", |a| a.append("z", &"new")).unwrap();
        object.within("n", |n| n.set("k", &1)).unwrap();
        object.within("absent", |_| Ok(())).unwrap();
        let after = String::from_utf8(object.text().unwrap()).unwrap();
        assert_eq!(
            after,
            r#"{"b":123456789012345678901234567890,"a":{"y":1e999,"x":[1.0 ,2],"z":["new"]},"n":{"k":1},"b2":"\u00e9\/"}"#
        );
        assert!(object.get::<u8>("b2").is_none() && object.get::<Object>("a").is_some());
        assert!(Object::parse(b"[]").is_err() && Object::parse(b"{").is_err());
        assert!(object.within("b", |_| Ok(())).is_err(), "a number is no object");
    }
}
