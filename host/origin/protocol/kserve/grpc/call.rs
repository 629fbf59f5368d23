//! The calls of clients that speak gRPC, as requests of the REST protocol with binary data, and its responses as
//! messages of gRPC. So a row is the same item whichever of the two its client speaks.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Map, Number, Value, value::RawValue};
use thiserror::Error;

use super::{
    elements, framed,
    message::{
        InferParameter, InferRequestedOutputTensor, InferTensor, InferTensorContents, ModelInferRequest,
        ModelInferResponse, ParameterChoice,
    },
    status::{INTERNAL, INVALID_ARGUMENT},
    wire::{self, Unwalked},
};
use crate::{
    message::target,
    origin::protocol::{
        fault::BadResponse,
        item::Message,
        kserve::{
            INPUTS, OUTPUTS, headers,
            message::BINARY_SIZE,
            rows::{BINARY_DATA, BINARY_OUTPUT, UNSIGNED},
            taken_apart,
            tensor::flat,
            unreadable,
        },
        tensor::{Datatype, Elements, Tensor},
    },
};

const PARAMETERS: &str = "parameters";

/// The parameter of a tensor whose data the client and the model share.
const SHARED_MEMORY: &str = "shared_memory_region";

/// A call of `ModelInfer` as a request of the REST protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The path of the model.
    pub target: PathAndQuery,
    /// The header fields that describe the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The name that the client gave the call; empty if it gave none. It isn't in the body.
    pub id: String,
}

/// Why a call can't be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Uncallable {
    /// Its message is of another kind.
    #[error("the message is no ModelInferRequest: {0}")]
    Unreadable(String),
    /// A field of it contradicts another one, or has no such value.
    #[error("`{field}` {why}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A field isn't known here, and would be left out of what is sent.
    #[error("`{message}` has a field of the number {number}, which isn't known here")]
    Unknown {
        /// The kind of message that has it.
        message: &'static str,
        /// Its number.
        number: u64,
    },
}

impl From<Unwalked> for Uncallable {
    fn from(fault: Unwalked) -> Self {
        match fault {
            Unwalked::Unknown { message, number } => Self::Unknown { message, number },
            Unwalked::Broken => Self::Unreadable("its fields can't be told from each other".to_owned()),
        }
    }
}

impl Uncallable {
    /// Returns the code of gRPC for it.
    #[must_use]
    pub const fn code(&self) -> u32 {
        match self {
            Self::Unreadable(_) => INTERNAL,
            Self::Invalid { .. } | Self::Unknown { .. } => INVALID_ARGUMENT,
        }
    }
}

const fn invalid(field: &'static str, why: &'static str) -> Uncallable {
    Uncallable::Invalid { field, why }
}

impl Call {
    /// Reads the message of a call. Tensors become binary data, whether they came as bytes or as numbers, and binary
    /// data is asked for. For a model that is called by gRPC itself, parameters that are `uint64` are named
    /// (`is_native`): JSON doesn't tell them from `int64`.
    ///
    /// # Errors
    /// [`Uncallable`]
    pub fn read(message: &Bytes, is_native: bool) -> Result<Self, Uncallable> {
        wire::check(message)?;
        let read = ModelInferRequest::decode(message.clone());
        let request = read.map_err(|error| Uncallable::Unreadable(error.to_string()))?;
        let ModelInferRequest { model_name, model_version, id, parameters, inputs, outputs, raw_input_contents } =
            request;
        let target = path(&model_name, &model_version)?;
        let (inputs, data) = inputs_of(inputs, raw_input_contents, is_native)?;
        let mut parameters = written(parameters, is_native)?;
        parameters.insert(BINARY_OUTPUT.to_owned(), true.into());
        let mut head = Map::new();
        head.insert(INPUTS.to_owned(), inputs.into());
        head.insert(PARAMETERS.to_owned(), parameters.into());
        if !outputs.is_empty() {
            let outputs = outputs.into_iter().map(|wanted| output(wanted, is_native)).collect::<Result<Vec<_>, _>>()?;
            head.insert(OUTPUTS.to_owned(), outputs.into());
        }
        let mut body = Value::Object(head).to_string().into_bytes();
        let headers = headers(Some(body.len()));
        for bytes in &data {
            body.extend_from_slice(bytes);
        }
        Ok(Self { target, headers, body: body.into(), id })
    }
}

/// Returns the path of a model in the REST protocol.
fn path(model: &str, version: &str) -> Result<PathAndQuery, Uncallable> {
    // A server that decodes them before it looks for segments would be led elsewhere.
    let is_segment = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ';']);
    let why = "is no name that a path can have: it is empty or dots, or has a `/`, `\\` or `;`";
    if !is_segment(model) {
        return Err(invalid("model_name", why));
    }
    if !version.is_empty() && !is_segment(version) {
        return Err(invalid("model_version", why));
    }
    let model = target::segment(model);
    let path = if version.is_empty() {
        format!("/v2/models/{model}/infer")
    } else {
        format!("/v2/models/{model}/versions/{}/infer", target::segment(version))
    };
    let normal = PathAndQuery::try_from(path).ok().and_then(|target| target::normalise(target).ok());
    normal
        .map(|(target, _)| target)
        .ok_or(invalid("model_name", "is too long, or has characters that no path can have"))
}

/// Returns the inputs as the REST protocol writes them, and the bytes of those that have some.
fn inputs_of(
    inputs: Vec<InferTensor>,
    raw: Vec<Bytes>,
    is_native: bool,
) -> Result<(Vec<Value>, Vec<Bytes>), Uncallable> {
    let is_raw = !raw.is_empty();
    let mut raw = raw.into_iter();
    let (mut heads, mut data) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
    for InferTensor { name, datatype, shape, parameters, contents } in inputs {
        let contents = contents.filter(|contents| *contents != InferTensorContents::default());
        let mut parameters = written(parameters, is_native)?;
        let own = if parameters.contains_key(SHARED_MEMORY) {
            if contents.is_some() {
                return Err(invalid("contents", "can't stand beside data in shared memory"));
            }
            None
        } else if is_raw {
            if contents.is_some() {
                return Err(invalid("contents", "can't stand beside `raw_input_contents`"));
            }
            Some(raw.next().ok_or(invalid("raw_input_contents", "has fewer elements than there are inputs"))?)
        } else {
            let bytes = Datatype::of(&datatype).and_then(|kind| elements(kind, &contents.unwrap_or_default()));
            Some(bytes.ok_or(invalid("contents", "has elements that aren't of the input's `datatype`"))?.into())
        };
        if let Some(own) = &own {
            parameters.insert(BINARY_SIZE.to_owned(), own.len().into());
        }
        heads.push(tensor_head(
            &[("name", name.into()), ("datatype", datatype.into()), ("shape", shape.into())],
            parameters,
        ));
        data.extend(own);
    }
    if raw.next().is_some() {
        return Err(invalid("raw_input_contents", "has more elements than there are inputs"));
    }
    Ok((heads, data))
}

fn output(wanted: InferRequestedOutputTensor, is_native: bool) -> Result<Value, Uncallable> {
    let InferRequestedOutputTensor { name, parameters } = wanted;
    Ok(tensor_head(&[("name", name.into())], written(parameters, is_native)?))
}

/// Returns an object with these members, and with parameters if there are any.
fn tensor_head(members: &[(&str, Value)], parameters: Map<String, Value>) -> Value {
    let mut head: Map<String, Value> =
        members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    if !parameters.is_empty() {
        head.insert(PARAMETERS.to_owned(), parameters.into());
    }
    Value::Object(head)
}

/// Returns parameters as JSON, with the names of those that are `uint64` if a model `is_native`.
fn written(parameters: BTreeMap<String, InferParameter>, is_native: bool) -> Result<Map<String, Value>, Uncallable> {
    let (mut written, mut unsigned) = (Map::new(), Vec::new());
    for (name, InferParameter { parameter_choice }) in parameters {
        if [BINARY_SIZE, BINARY_DATA, BINARY_OUTPUT, UNSIGNED].contains(&name.as_str()) {
            return Err(invalid(PARAMETERS, "has a name that means something in KServe's REST protocol only"));
        }
        if matches!(parameter_choice, Some(ParameterChoice::Uint64(_))) {
            unsigned.push(Value::from(name.as_str()));
        }
        let value = match parameter_choice {
            Some(ParameterChoice::Bool(value)) => value.into(),
            Some(ParameterChoice::Int64(number)) => number.into(),
            Some(ParameterChoice::Uint64(number)) => number.into(),
            Some(ParameterChoice::String(text)) => text.into(),
            Some(ParameterChoice::Double(number)) => {
                let number = Number::from_f64(number).ok_or(invalid(PARAMETERS, "has a number that is none"))?;
                Value::Number(number)
            }
            None => return Err(invalid(PARAMETERS, "has one without a value, or of an unknown type")),
        };
        written.insert(name, value);
    }
    if is_native && !unsigned.is_empty() {
        written.insert(UNSIGNED.to_owned(), unsigned.into());
    }
    Ok(written)
}

/// A response of the REST protocol.
#[derive(Deserialize)]
struct Response<'r> {
    model_name: Option<Value>,
    model_version: Option<Value>,
    parameters: Option<Map<String, Value>>,
    #[serde(borrow)]
    outputs: Vec<Output<'r>>,
}

/// An output in one.
#[derive(Deserialize)]
struct Output<'r> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Option<Map<String, Value>>,
    #[serde(borrow)]
    data: Option<&'r RawValue>,
}

/// Returns the framed message that a successful response of the REST protocol is over gRPC, to a call of this name. Its
/// tensors are bytes.
///
/// # Errors
/// [`BadResponse`] if it can't be read, or something of it has no form in gRPC.
pub fn call_response(response: Message<'_>, id: &str) -> Result<Bytes, BadResponse> {
    let (head, mut binary) = taken_apart(response)?;
    let read: Response<'_> = serde_json::from_slice(head).map_err(|error| unreadable(&error.to_string()))?;
    let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut message = ModelInferResponse {
        model_name: text(read.model_name),
        model_version: text(read.model_version),
        id: id.to_owned(),
        parameters: parameters_of(read.parameters.unwrap_or_default())?,
        ..ModelInferResponse::default()
    };
    for Output { name, datatype, shape, parameters, data } in read.outputs {
        let mut parameters = parameters.unwrap_or_default();
        let bytes = match (parameters.remove(BINARY_SIZE), data) {
            (Some(size), None) => {
                let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
                let cut = size.and_then(|size| binary.split_at_checked(size));
                let (own, rest) = cut.ok_or_else(|| unreadable("it has less binary data than it says"))?;
                binary = rest;
                response.body.slice_ref(own)
            }
            (None, Some(data)) => raw(&datatype, &shape, data)
                .ok_or_else(|| unreadable("the elements of an output have no form as bytes"))?,
            (None, None) if parameters.contains_key(SHARED_MEMORY) => Bytes::new(),
            _ => return Err(unreadable("an output has no data, or two kinds of it")),
        };
        let parameters = parameters_of(parameters)?;
        message.outputs.push(InferTensor { name, datatype, shape, parameters, contents: None });
        message.raw_output_contents.push(bytes);
    }
    if !binary.is_empty() {
        return Err(unreadable("it has more binary data than its tensors"));
    }
    Ok(framed(&message))
}

/// Returns the bytes of elements that are written as JSON; `None` if one isn't of this type, or they don't fit the
/// shape.
fn raw(datatype: &str, shape: &[i64], data: &RawValue) -> Option<Bytes> {
    let dims = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<_>>()?;
    let elements = Elements::Json(flat(data.get().as_bytes())?);
    let tensor = Tensor { name: String::new(), datatype: Datatype::of(datatype)?, dims, elements };
    tensor.raw().map(|bytes| bytes.into_owned().into())
}

fn parameters_of(json: Map<String, Value>) -> Result<BTreeMap<String, InferParameter>, BadResponse> {
    let mut parameters = BTreeMap::new();
    for (name, value) in json {
        let choice = match value {
            // It says nothing, as one does that isn't there.
            Value::Null => continue,
            Value::Bool(value) => Some(ParameterChoice::Bool(value)),
            Value::String(text) => Some(ParameterChoice::String(text)),
            Value::Number(number) => {
                let whole = number.as_i64().map(ParameterChoice::Int64);
                let large = || number.as_u64().map(ParameterChoice::Uint64);
                let fraction = || number.as_f64().filter(|_| number.is_f64()).map(ParameterChoice::Double);
                whole.or_else(large).or_else(fraction)
            }
            Value::Array(_) | Value::Object(_) => None,
        };
        let choice = choice.ok_or_else(|| unreadable("a parameter has no form in gRPC"))?;
        parameters.insert(name, InferParameter { parameter_choice: Some(choice) });
    }
    Ok(parameters)
}
