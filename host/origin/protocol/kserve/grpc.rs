//! KServe's protocol, version 2, over gRPC. As a pool speaks it: calls of `ModelInfer`, each with the rows of a batch
//! along the first dimension of all tensors, whose elements are sent as bytes. As clients speak it: `call` has their
//! calls as requests of the REST protocol, which are split and joined there, and `framing` reads their messages.

mod call;
mod framing;
mod message;
mod status;
mod wire;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_TYPE, HeaderValue, TE},
    uri::PathAndQuery,
};
use prost::Message as _;

use super::{
    rows::{Parameter, Parameters, Request},
    tensor::Shape,
};
use crate::origin::protocol::{
    fault::BadResponse,
    item::{Item, JoinedRequest},
    tensor::{self, Datatype, Elements, Scalar, Tensor},
};
pub use call::{Call, Uncallable, call_response};
pub use framing::{Framing, Misframed, Unframed};
use message::{
    InferParameter, InferRequestedOutputTensor, InferTensor, InferTensorContents, ModelInferRequest,
    ModelInferResponse, ParameterChoice,
};
pub(in crate::origin::protocol) use status::failure;
pub(in crate::origin) use status::status_of_head;
pub use status::{code_of, status_fields};

/// The path of the method by which models infer.
pub const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Bytes before a message: whether it is compressed, and its length, the highest byte first.
const PREFIX_BYTES: usize = 5;

/// Returns the item whose call has this one row; `None` if its elements can't be bytes of their type.
pub(in crate::origin::protocol) fn item(request: &Request, model: &str, version: &str) -> Option<Item> {
    let (mut body, mut parts, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for tensor in &request.tensors {
        let start = body.len();
        body.extend_from_slice(&tensor.raw()?);
        parts.push(start..body.len());
        inputs.push(InferTensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype.name().to_owned(),
            shape: tensor.dims.iter().map(|dim| i64::try_from(*dim).ok()).collect::<Option<_>>()?,
            parameters: BTreeMap::new(),
            contents: None,
        });
    }
    let output = |(name, parameters): &(String, Parameters)| InferRequestedOutputTensor {
        name: name.clone(),
        parameters: written(parameters),
    };
    let head = ModelInferRequest {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id: String::new(),
        parameters: written(&request.parameters),
        inputs,
        outputs: request.outputs.iter().map(output).collect(),
        raw_input_contents: Vec::new(),
    };
    Some(Item { parts, ..Item::new(body.into(), Bytes::new(), head.encode_to_vec().into()) })
}

fn written(parameters: &Parameters) -> BTreeMap<String, InferParameter> {
    let one = |(name, value): (&String, &Parameter)| {
        let choice = match value {
            Parameter::Bool(value) => ParameterChoice::Bool(*value),
            Parameter::Integer(number) => ParameterChoice::Int64(*number),
            Parameter::Unsigned(number) => ParameterChoice::Uint64(*number),
            Parameter::Number(number) => ParameterChoice::Double(*number),
            Parameter::Text(text) => ParameterChoice::String(text.clone()),
        };
        (name.clone(), InferParameter { parameter_choice: Some(choice) })
    };
    parameters.iter().map(one).collect()
}

/// Makes one call for all these items, whose groups must be equal.
pub(in crate::origin::protocol) fn join(items: &[&Item]) -> JoinedRequest {
    // A group is what `item` wrote.
    let head = items.first().and_then(|first| ModelInferRequest::decode(first.group.clone()).ok());
    let mut request = head.unwrap_or_default();
    let rows = i64::try_from(items.len()).unwrap_or(i64::MAX);
    for (place, input) in request.inputs.iter_mut().enumerate() {
        input.shape.insert(0, rows);
        let rows = items.iter().filter_map(|item| item.body.get(item.parts.get(place)?.clone()));
        request.raw_input_contents.push(rows.collect::<Vec<_>>().concat().into());
    }
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (TE, HeaderValue::from_static("trailers")),
        (HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static("identity")),
    ]);
    JoinedRequest { target: PathAndQuery::from_static(METHOD), headers, body: framed(&request) }
}

/// Returns a message with its length before it.
fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = Vec::with_capacity(length + PREFIX_BYTES);
    body.push(0);
    // Longer ones than a length can say are refused by the limits of bodies long before.
    body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A Vec takes whatever is written to it.
    let _ = message.encode(&mut body);
    body.into()
}

/// Returns the only message of a body.
fn unframed(body: &Bytes) -> Result<Bytes, BadResponse> {
    let Some(([compressed, length @ ..], rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(unreadable("it has no message"));
    };
    if *compressed != 0 {
        return Err(unreadable("its message is compressed, which wasn't asked for"));
    }
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(rest.len()) {
        return Err(unreadable("its message is longer or shorter than it says"));
    }
    Ok(body.slice(PREFIX_BYTES..))
}

fn unreadable(why: &str) -> BadResponse {
    BadResponse::Unreadable { wanted: "a ModelInferResponse", why: why.to_owned() }
}

fn read(parameters: BTreeMap<String, InferParameter>) -> Parameters {
    let one = |(name, InferParameter { parameter_choice })| {
        let value = match parameter_choice? {
            ParameterChoice::Bool(value) => Parameter::Bool(value),
            ParameterChoice::Int64(number) => Parameter::Integer(number),
            ParameterChoice::Uint64(number) => Parameter::Unsigned(number),
            ParameterChoice::Double(number) => Parameter::Number(number),
            ParameterChoice::String(text) => Parameter::Text(text),
        };
        Some((name, value))
    };
    parameters.into_iter().filter_map(one).collect()
}

/// Returns the response for each of so many rows. The parameters of its outputs are only those of a row that was asked
/// for alone: of several, each may have some of them.
///
/// # Errors
/// [`BadResponse`] if the response can't be read, or can't be cut into so many rows.
pub(in crate::origin::protocol) fn results(body: &Bytes, asked: usize) -> Result<Vec<Request>, BadResponse> {
    let message = unframed(body)?;
    let response = ModelInferResponse::decode(message).map_err(|error| unreadable(&error.to_string()))?;
    let ModelInferResponse { outputs, raw_output_contents: raw, model_version, parameters, .. } = response;
    if outputs.is_empty() {
        return Err(unreadable("it has no outputs"));
    }
    if !raw.is_empty() && raw.len() != outputs.len() {
        return Err(unreadable("it has data for more or fewer outputs than it names"));
    }
    let version = Some(model_version).filter(|version| !version.is_empty());
    let result = Request { version, parameters: read(parameters), ..Request::default() };
    let mut results = vec![result; asked];
    for (place, output) in outputs.into_iter().enumerate() {
        let datatype = Datatype::of(&output.datatype).ok_or_else(|| unreadable("an output has no known type"))?;
        let dims = output.shape.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<usize>>>();
        let shape =
            dims.and_then(|dims| Shape::of(&dims)).ok_or_else(|| unreadable("an output has no usable shape"))?;
        if shape.rows != asked {
            return Err(BadResponse::Count { asked, found: shape.rows });
        }
        let own = || output.contents.as_ref().and_then(|contents| elements(datatype, contents)).map(Bytes::from);
        let data = raw.get(place).cloned().or_else(own).ok_or_else(|| unreadable("an output has no data"))?;
        let rows = shape.cut_binary(datatype.name(), &data);
        let rows = rows.ok_or_else(|| unreadable("the data of an output don't fit its shape and type"))?;
        for (result, row) in results.iter_mut().zip(rows) {
            let (name, dims) = (output.name.clone(), shape.row.clone());
            result.tensors.push(Tensor { name, datatype, dims, elements: Elements::Raw(row.to_vec()) });
        }
        if let ([result], false) = (&mut results[..], output.parameters.is_empty()) {
            result.outputs.push((output.name, read(output.parameters)));
        }
    }
    Ok(results)
}

/// Returns elements that are numbers of a message as bytes; `None` if one is out of the range of its type, there is no
/// such form for it, or there are elements of another type beside them.
fn elements(datatype: Datatype, contents: &InferTensorContents) -> Option<Vec<u8>> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    has_no_others(datatype, contents).then_some(())?;
    match datatype {
        Datatype::Bool => tensor::raw(datatype, bool_contents.iter().copied().map(Scalar::Bool)),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => {
            tensor::raw(datatype, int_contents.iter().copied().map(i64::from).map(Scalar::Signed))
        }
        Datatype::Int64 => tensor::raw(datatype, int64_contents.iter().copied().map(Scalar::Signed)),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => {
            tensor::raw(datatype, uint_contents.iter().copied().map(u64::from).map(Scalar::Unsigned))
        }
        Datatype::Uint64 => tensor::raw(datatype, uint64_contents.iter().copied().map(Scalar::Unsigned)),
        Datatype::Fp32 => tensor::raw(datatype, fp32_contents.iter().copied().map(Scalar::Single)),
        Datatype::Fp64 => tensor::raw(datatype, fp64_contents.iter().copied().map(Scalar::Double)),
        Datatype::Bytes => {
            tensor::raw(datatype, bytes_contents.iter().map(|bytes| Scalar::Bytes(Cow::Borrowed(&bytes[..]))))
        }
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// Whether no list of elements has any but the one for this type.
fn has_no_others(datatype: Datatype, contents: &InferTensorContents) -> bool {
    let own = match datatype {
        Datatype::Bool => Some(0),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some(1),
        Datatype::Int64 => Some(2),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some(3),
        Datatype::Uint64 => Some(4),
        Datatype::Fp32 => Some(5),
        Datatype::Fp64 => Some(6),
        Datatype::Bytes => Some(7),
        Datatype::Fp16 | Datatype::Bf16 => None,
    };
    let are_empty = [
        contents.bool_contents.is_empty(),
        contents.int_contents.is_empty(),
        contents.int64_contents.is_empty(),
        contents.uint_contents.is_empty(),
        contents.uint64_contents.is_empty(),
        contents.fp32_contents.is_empty(),
        contents.fp64_contents.is_empty(),
        contents.bytes_contents.is_empty(),
    ];
    are_empty.iter().enumerate().all(|(place, is_empty)| *is_empty || Some(place) == own)
}
