//! What the endpoints of a pool speak, if that isn't what the clients of its routes do.

/// A protocol that a pool may speak while its clients speak another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolProtocol {
    /// A JSON array, an element for each item.
    JsonArray,
    /// A MessagePack array, an element for each item.
    MsgPackArray,
    /// KServe's REST protocol, version 2.
    KServe,
    /// KServe's protocol, version 2, over gRPC.
    KServeGrpc,
}

/// The protocol of a pool, and how items that come in another are sent in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The protocol.
    pub protocol: PoolProtocol,
    /// The model's name, if it isn't the one that a request names.
    pub model: Option<String>,
    /// The path that requests are sent to, `{model}` in it standing for the model's name; `None` for that of the
    /// protocol, or the client's if it has none.
    pub path: Option<String>,
    /// The name of the tensor that an item becomes.
    pub input: String,
    /// The name of the tensor that is the result, if the model has several.
    pub output: Option<String>,
    /// KServe's name of the type that numbers are sent in; without one `INT64` for whole numbers, `FP32` for others.
    pub datatype: Option<&'static str>,
    /// Whether tensors are sent as binary data behind the JSON.
    pub binary: bool,
    /// Whether a text or a single number is a row without dimensions of its own, instead of one of a single element.
    pub flat: bool,
}
