//! One row of a KServe request or response as the tensors that it is, for pools and clients of other protocols.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::{
    INPUTS, OUTPUTS, finished,
    message::{self, BINARY_SIZE, Form, Head, Members, Message as Tensors, Spelling, Uncut, Written},
    taken_apart,
    tensor::flat,
};
use crate::origin::protocol::{
    fault::Malformed,
    item::{Item, ItemResponse, Message, Packing},
    lenient::Text,
    tensor::{Datatype, Elements, Tensor},
};

/// Parameters of a request or an output.
pub(in crate::origin::protocol) type Parameters = BTreeMap<String, Parameter>;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::origin::protocol) enum Parameter {
    Bool(bool),
    Integer(i64),
    /// A whole number that is too large for the other, or is to be sent as one without a sign.
    Unsigned(u64),
    Number(f64),
    Text(String),
}

/// A request or a response with a single row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::origin::protocol) struct Request {
    pub(in crate::origin::protocol) tensors: Vec<Tensor>,
    pub(in crate::origin::protocol) parameters: Parameters,
    /// The outputs that are asked for, with their parameters; all if there are none. Of a response those of its tensors
    /// that have parameters.
    pub(in crate::origin::protocol) outputs: Vec<(String, Parameters)>,
    /// The version of the model that has responded, if it says so.
    pub(in crate::origin::protocol) version: Option<String>,
}

/// The parameter of a request, and that of an output, which say that data are to be binary.
pub(super) const BINARY_OUTPUT: &str = "binary_data_output";
pub(super) const BINARY_DATA: &str = "binary_data";

/// The parameter with the names of those parameters beside it that are numbers without a sign. JSON has one kind of
/// numbers, and a model may want one of two. It is in requests that were calls of gRPC and become some again.
pub(super) const UNSIGNED: &str = "holm_uint64";

/// Reads the request of an item that isn't whole.
///
/// # Errors
/// What of it has no place elsewhere.
pub(in crate::origin::protocol) fn read(item: &Item) -> Result<(Request, Packing), Malformed> {
    let bytes = item.parts.first().map_or(item.body.len(), |json| json.end);
    let (head, binary) = item.body.split_at_checked(bytes).unwrap_or_default();
    let text = Text::of(head);
    let bad = |_: Uncut| Malformed::untranslatable(INPUTS, "they can't be read");
    let Tensors { rest, tensors, .. } = Tensors::read(&text, binary, INPUTS, 1, Spelling::AsWritten).map_err(bad)?;
    let mut request = Request::default();
    for input in &tensors {
        let tensor = input.head.is_plain().then(|| tensor(input)).flatten();
        let why = "an input has parameters, or a type that isn't known";
        request.tensors.push(tensor.ok_or_else(|| Malformed::untranslatable(INPUTS, why))?);
    }
    let mut packing = Packing::default();
    for (name, value) in &rest {
        match name.as_str() {
            "parameters" => request.parameters = parameters(name, value)?,
            OUTPUTS => request.outputs = outputs(value, &mut packing)?,
            _ if **value == *b"null" => {}
            _ => return Err(Malformed::untranslatable(name, "it has no place there")),
        }
    }
    packing.by_default = taken(BINARY_OUTPUT, &mut request.parameters)?.unwrap_or_default();
    Ok((request, packing))
}

fn parameters(member: &str, json: &[u8]) -> Result<Parameters, Malformed> {
    let bad = || Malformed::untranslatable(member, "a parameter is no number, text or truth value");
    let raw: Option<BTreeMap<String, Value>> = serde_json::from_slice(json).map_err(|_| bad())?;
    let mut raw = raw.unwrap_or_default();
    let unsigned: BTreeSet<String> = match raw.remove(UNSIGNED) {
        Some(names) => serde_json::from_value(names).map_err(|_| bad())?,
        None => BTreeSet::new(),
    };
    let parameter = |(name, value): (String, Value)| {
        let value = match value {
            Value::Bool(value) => Parameter::Bool(value),
            Value::String(text) => Parameter::Text(text),
            Value::Number(number) => {
                let whole = number.as_i64().filter(|_| !unsigned.contains(&name)).map(Parameter::Integer);
                let large = || number.as_u64().map(Parameter::Unsigned);
                let fraction = || number.as_f64().filter(|_| number.is_f64()).map(Parameter::Number);
                whole.or_else(large).or_else(fraction).ok_or_else(bad)?
            }
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(bad()),
        };
        Ok((name, value))
    };
    raw.into_iter().map(parameter).collect()
}

/// Returns parameters as JSON, without those that it has no form for.
fn as_json(parameters: &Parameters) -> Map<String, Value> {
    let value = |parameter: &Parameter| match parameter {
        Parameter::Bool(value) => Some(Value::Bool(*value)),
        Parameter::Integer(number) => Some(Value::from(*number)),
        Parameter::Unsigned(number) => Some(Value::from(*number)),
        Parameter::Number(number) => Number::from_f64(*number).map(Value::Number),
        Parameter::Text(text) => Some(Value::from(text.as_str())),
    };
    // What says where data is would be taken for this message's own.
    let is_free = |name: &str| ![BINARY_SIZE, BINARY_DATA, BINARY_OUTPUT].contains(&name);
    let known = parameters.iter().filter(|(name, _)| is_free(name));
    known.filter_map(|(name, parameter)| Some((name.clone(), value(parameter)?))).collect()
}

/// Takes a truth value out of parameters; `None` if it isn't there.
fn taken(name: &str, parameters: &mut Parameters) -> Result<Option<bool>, Malformed> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Bool(value)) => Ok(Some(value)),
        Some(_) => Err(Malformed::untranslatable(name, "it is neither `true` nor `false`")),
    }
}

/// Reads the outputs that a request asks for.
fn outputs(json: &[u8], packing: &mut Packing) -> Result<Vec<(String, Parameters)>, Malformed> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Output {
        name: String,
        parameters: Option<Value>,
    }
    let bad = |_| Malformed::untranslatable(OUTPUTS, "it is no list of names with parameters");
    let wanted: Option<Vec<Output>> = serde_json::from_slice(json).map_err(bad)?;
    let mut outputs = Vec::new();
    for Output { name, parameters: given } in wanted.unwrap_or_default() {
        let mut parameters = match given {
            Some(given) => parameters(OUTPUTS, given.to_string().as_bytes())?,
            None => Parameters::new(),
        };
        if let Some(binary) = taken(BINARY_DATA, &mut parameters)? {
            packing.outputs.insert(name.clone(), binary);
        }
        outputs.push((name, parameters));
    }
    Ok(outputs)
}

/// Returns the first row of a tensor.
fn tensor(tensor: &message::Tensor<'_>) -> Option<Tensor> {
    let row = tensor.rows.first().copied()?;
    Some(Tensor {
        name: tensor.head.text("name")?,
        datatype: Datatype::of(&tensor.head.text("datatype")?)?,
        dims: tensor.head.dims().to_vec(),
        elements: match tensor.head.form {
            Form::Binary => Elements::Raw(row.to_vec()),
            Form::Flat | Form::Nested => Elements::Json(flat(row)?),
        },
    })
}

/// Returns the item whose request has this one tensor; `None` if its elements have no such form. `binary` has its data,
/// and those of the response, behind the JSON.
pub(in crate::origin::protocol) fn request_item(tensor: &Tensor, output: Option<&str>, binary: bool) -> Option<Item> {
    let mut rest = Members::new();
    if let Some(name) = output {
        let outputs = serde_json::json!([{ "name": name }]).to_string();
        rest.insert(OUTPUTS.to_owned(), Cow::Owned(outputs.into_bytes()));
    }
    if binary {
        let parameters = serde_json::json!({ BINARY_OUTPUT: true }).to_string();
        rest.insert("parameters".to_owned(), Cow::Owned(parameters.into_bytes()));
    }
    let (head, row) = written(tensor, binary)?;
    let Written { bytes, parts } = message::write(INPUTS, None, &rest, &[(&head, vec![&*row])]);
    let group = Bytes::from(message::write(INPUTS, None, &rest, &[(&head, Vec::new())]).bytes);
    let body = Bytes::from(bytes);
    Some(Item { parts, ..Item::new(body.clone(), body, group) })
}

fn written(tensor: &Tensor, binary: bool) -> Option<(Head<'static>, Cow<'_, [u8]>)> {
    let (form, row) = if binary { (Form::Binary, tensor.raw()?) } else { (Form::Flat, tensor.flat()?) };
    Some((Head::new(&tensor.name, tensor.datatype.name(), &tensor.dims, form), row))
}

/// Reads the response to a request with a single row.
///
/// # Errors
/// What is wrong with it.
pub(in crate::origin::protocol) fn results(response: Message<'_>) -> Result<Vec<Tensor>, &'static str> {
    let (head, binary) = taken_apart(response).map_err(|_| "its JSON has another length than it says")?;
    let text = Text::of(head);
    if text.words() > 0 {
        return Err("it has numbers that are none");
    }
    let read = Tensors::read(&text, binary, OUTPUTS, 1, Spelling::AsWritten).map_err(|uncut| match uncut {
        Uncut::TooMany(_) => "it has more rows than the request",
        Uncut::Form(why) => why,
    })?;
    if read.rows != 1 {
        return Err("it has fewer rows than the request");
    }
    read.tensors.iter().map(tensor).collect::<Option<_>>().ok_or("one of its tensors has no name or no known type")
}

/// Returns the response of a model of this name, each output as the client wants it; `None` if the elements of one have
/// no such form.
pub(in crate::origin::protocol) fn reply(model: &str, response: &Request, packing: &Packing) -> Option<ItemResponse> {
    let member = |value: Value| -> Cow<'static, [u8]> { Cow::Owned(value.to_string().into_bytes()) };
    let mut rest = Members::from([("model_name".to_owned(), member(model.into()))]);
    if let Some(version) = &response.version {
        rest.insert("model_version".to_owned(), member(version.as_str().into()));
    }
    let parameters = as_json(&response.parameters);
    if !parameters.is_empty() {
        rest.insert("parameters".to_owned(), member(Value::Object(parameters)));
    }
    let outputs = response.tensors.iter().map(|tensor| {
        let (head, row) = written(tensor, packing.packs(&tensor.name))?;
        let own = response.outputs.iter().find(|(name, _)| *name == tensor.name);
        let own = own.map(|(_, parameters)| as_json(parameters)).unwrap_or_default();
        Some((head.with_parameters(own.into_iter().map(|(name, value)| (name, member(value))).collect()), row))
    });
    let outputs: Vec<(Head<'_>, Cow<'_, [u8]>)> = outputs.collect::<Option<_>>()?;
    let tensors: Vec<(&Head<'_>, Vec<&[u8]>)> = outputs.iter().map(|(head, row)| (head, vec![&**row])).collect();
    let (headers, body) = finished(message::write(OUTPUTS, None, &rest, &tensors), &tensors);
    Some(ItemResponse { headers, ..ItemResponse::from(body) })
}
