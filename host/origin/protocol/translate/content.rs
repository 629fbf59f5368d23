//! What an item or a result holds, between two protocols.

use std::borrow::Cow;

use bytes::Bytes;

use crate::origin::protocol::{
    json::{self, Node},
    kserve::rows::Request,
    tensor::{Datatype, Tensor},
};

/// An item or a result: a JSON value, or tensors with what belongs to them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Json(Bytes),
    Row(Request),
}

impl Content {
    /// Whether all that is in it is of its type, and no number is infinite or none.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::Row(row) => row.tensors.iter().all(Tensor::is_sound),
        }
    }

    /// Returns how many commas its JSON has, which tells lists of numbers of different lengths apart; `None` if it is
    /// tensors, of which the rows of one response have one length.
    pub(super) fn commas(&self) -> Option<usize> {
        match self {
            Self::Json(json) => Some(json.iter().filter(|byte| **byte == b',').count()),
            Self::Row(_) => None,
        }
    }

    /// Returns the tensors of a result.
    pub(super) fn of_tensors(tensors: Vec<Tensor>) -> Self {
        Self::Row(Request { tensors, ..Request::default() })
    }

    /// Returns the JSON value that it is, or that its only tensor is; of several that of this name.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn value(&self, name: Option<&str>) -> Result<Bytes, &'static str> {
        match self {
            Self::Json(json) => Ok(json.clone()),
            Self::Row(_) => {
                let value = self.tensor(name, "", None, &[])?.value();
                value.map(Bytes::from).ok_or("its elements have no form in JSON")
            }
        }
    }

    /// Returns its only tensor; of several that of this name. A JSON value becomes one that is called `new`, with
    /// numbers of this type; what is no list has the dimensions `single`.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn tensor(
        &self,
        name: Option<&str>,
        new: &str,
        numbers: Option<Datatype>,
        single: &[usize],
    ) -> Result<Cow<'_, Tensor>, &'static str> {
        let json = match self {
            Self::Json(json) => json,
            Self::Row(Request { tensors, .. }) => {
                let named = name.map(|name| tensors.iter().find(|tensor| tensor.name == name));
                return match (named, &tensors[..]) {
                    (Some(named), _) => named.map(Cow::Borrowed).ok_or("it has no tensor of the name in `output`"),
                    (None, [only]) => Ok(Cow::Borrowed(only)),
                    (None, []) => Err("it has no tensor"),
                    (None, _) => Err("it has several tensors"),
                };
            }
        };
        parsed(json, |value| Tensor::of_value(new, value, numbers, single))?.map(Cow::Owned)
    }
}

/// Reads a JSON value.
pub(super) fn parsed<T>(json: &[u8], read: impl FnOnce(&Node<'_>) -> T) -> Result<T, &'static str> {
    let bad = |_| "it can't be read as JSON";
    let value = json::parse(json::text(json).map_err(bad)?, 0).map_err(bad)?.node;
    Ok(read(&value))
}
