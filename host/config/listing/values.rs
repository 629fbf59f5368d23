//! The values that listings are made of.

use std::{collections::BTreeMap, fmt::Display, path::Path, time::Duration};

use serde_json::Value;

use crate::{clock, config::units::ByteSize};

/// Returns a table; members that are `null` are left out.
pub(super) fn table<const N: usize>(members: [(&str, Value); N]) -> Value {
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect())
}

pub(super) fn named<T>(items: &BTreeMap<String, T>, show: impl Fn(&T) -> Value) -> Value {
    Value::Object(items.iter().map(|(name, item)| (name.clone(), show(item))).collect())
}

pub(super) fn list<T>(items: &[T], show: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(show).collect())
}

pub(super) fn option<T>(given: Option<T>, show: impl FnOnce(T) -> Value) -> Value {
    given.map_or(Value::Null, show)
}

pub(super) fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

pub(super) fn path(value: &Path) -> Value {
    text(value.display())
}

pub(super) fn count(value: usize) -> Value {
    Value::from(value)
}

pub(super) fn bytes(value: usize) -> Value {
    size(value as u64)
}

pub(super) fn size(value: u64) -> Value {
    text(ByteSize(value))
}

pub(super) fn ms(time: Duration) -> Value {
    Value::from(clock::millis(time))
}

pub(super) fn us(time: Duration) -> Value {
    Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

pub(super) fn texts<T: Display>(items: &[T]) -> Value {
    Value::Array(items.iter().map(text).collect())
}
