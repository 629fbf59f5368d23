//! The tensor of a single item, whatever protocol it comes in: its elements as JSON, as bytes and as values. A number
//! that isn't turned into bytes stays as it was written.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::{json::Node, lenient::string_end};

/// Dimensions that a tensor may have.
pub(super) const DIMS_MAX: usize = 32;

/// The type of elements, by KServe's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Texts, or bytes of any kind.
    Bytes,
}

impl Datatype {
    pub(super) const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Returns the bytes of an element; `None` if each begins with its own length, in 4 bytes.
    pub(super) const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Whether it is a type of whole numbers from zero on, and has this one.
    fn has_unsigned(self, number: u64) -> bool {
        let is_one = matches!(self, Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64);
        is_one && number <= u64::MAX >> (64 - self.bits())
    }

    /// Whether it is a type of whole numbers with a sign, and has this one.
    fn has_signed(self, number: i64) -> bool {
        let is_one = matches!(self, Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64);
        is_one && matches!(number >> (self.bits() - 1), 0 | -1)
    }

    /// Returns the bits of an element; those of a type without a size count as 64.
    fn bits(self) -> usize {
        self.size().map_or(64, |bytes| 8 * bytes)
    }

    /// Reads an element as JSON writes it; `None` if it is none of this type.
    fn parse(self, leaf: &[u8]) -> Option<Scalar<'static>> {
        let text = str::from_utf8(leaf).ok()?;
        let is_number = text.strip_prefix('-').unwrap_or(text).starts_with(|c: char| c.is_ascii_digit());
        match self {
            Self::Bytes => Some(Scalar::Bytes(serde_json::from_str::<String>(text).ok()?.into_bytes().into())),
            Self::Bool if text == "true" => Some(Scalar::Bool(true)),
            Self::Bool if text == "false" => Some(Scalar::Bool(false)),
            Self::Bool => None,
            _ if !is_number => None,
            Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64 => {
                text.parse().ok().filter(|number: &u64| self.has_unsigned(*number)).map(Scalar::Unsigned)
            }
            Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64 => {
                text.parse().ok().filter(|number: &i64| self.has_signed(*number)).map(Scalar::Signed)
            }
            Self::Fp16 | Self::Bf16 | Self::Fp32 => {
                text.parse().ok().filter(|number: &f32| number.is_finite()).map(Scalar::Single)
            }
            Self::Fp64 => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Double),
        }
    }

    /// Reads an element from its bytes, the lowest first.
    fn read(self, bytes: &[u8]) -> Option<Scalar<'_>> {
        let bits = bytes.iter().rev().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        Some(match self {
            Self::Bool if bits > 1 => return None,
            Self::Bool => Scalar::Bool(bits == 1),
            Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64 => Scalar::Unsigned(bits),
            Self::Int8 => Scalar::Signed((bits as u8).cast_signed().into()),
            Self::Int16 => Scalar::Signed((bits as u16).cast_signed().into()),
            Self::Int32 => Scalar::Signed((bits as u32).cast_signed().into()),
            Self::Int64 => Scalar::Signed(bits.cast_signed()),
            Self::Fp16 => Scalar::Single(half(bits as u16)),
            Self::Bf16 => Scalar::Single(f32::from_bits((bits as u32) << 16)),
            Self::Fp32 => Scalar::Single(f32::from_bits(bits as u32)),
            Self::Fp64 => Scalar::Double(f64::from_bits(bits)),
            Self::Bytes => Scalar::Bytes(Cow::Borrowed(bytes)),
        })
    }
}

/// Returns the number that these bits are in half precision (IEEE 754, binary16).
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from((bits >> 10) & 0x1f), bits & 0x3ff);
    let size = match (exponent, fraction) {
        (0, _) => f32::from(fraction) * 2_f32.powi(-24),
        (31, 0) => f32::INFINITY,
        (31, _) => f32::NAN,
        _ => f32::from(fraction | 0x400) * 2_f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'e> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bytes(Cow<'e, [u8]>),
}

impl Scalar<'_> {
    /// Writes it as JSON; `None` if JSON has no form for it: not a number, or bytes that are no text.
    fn write_json(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Unsigned(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Signed(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Single(number) if number.is_finite() => serde_json::to_writer(out, number).ok()?,
            Self::Double(number) if number.is_finite() => serde_json::to_writer(out, number).ok()?,
            Self::Single(_) | Self::Double(_) => return None,
            Self::Bytes(bytes) => serde_json::to_writer(out, str::from_utf8(bytes).ok()?).ok()?,
        }
        Some(())
    }

    /// Writes the bytes that it has in a tensor of this type; `None` if it isn't of this type, or is to lose precision.
    /// [`raw`] does so for several.
    fn write_raw(&self, datatype: Datatype, out: &mut Vec<u8>) -> Option<()> {
        let size = datatype.size().unwrap_or_default();
        match (self, datatype) {
            (Self::Bool(value), Datatype::Bool) => out.push(u8::from(*value)),
            (Self::Unsigned(number), _) if datatype.has_unsigned(*number) => {
                out.extend_from_slice(number.to_le_bytes().get(..size)?)
            }
            (Self::Signed(number), _) if datatype.has_signed(*number) => {
                out.extend_from_slice(number.to_le_bytes().get(..size)?)
            }
            (Self::Single(number), Datatype::Fp32) => out.extend_from_slice(&number.to_le_bytes()),
            (Self::Double(number), Datatype::Fp64) => out.extend_from_slice(&number.to_le_bytes()),
            (Self::Bytes(bytes), Datatype::Bytes) => {
                out.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            _ => return None,
        }
        Some(())
    }

    /// Returns it as a number of 4 bytes; `None` if it isn't one that can be.
    fn single(&self) -> Option<f32> {
        let number = match self {
            Self::Unsigned(number) => *number as f32,
            Self::Signed(number) => *number as f32,
            Self::Single(number) => *number,
            Self::Double(number) => *number as f32,
            Self::Bool(_) | Self::Bytes(_) => return None,
        };
        number.is_finite().then_some(number)
    }
}

/// The tensor of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    /// Its dimensions, without that of the batch.
    pub(super) dims: Vec<usize>,
    pub(super) elements: Elements,
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// As a stretch of a flat JSON list.
    Json(Vec<u8>),
    /// One after the other, the lowest byte of each number first; texts after their length in 4 bytes.
    Raw(Vec<u8>),
}

impl Tensor {
    /// Returns the tensor that is this JSON value: a text, a number, or lists of them that are alike. `numbers` is the
    /// type of numbers; without one whole ones are `INT64` and others `FP32`. What is no list has the dimensions
    /// `single`.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn of_value(
        name: &str,
        value: &Node<'_>,
        numbers: Option<Datatype>,
        single: &[usize],
    ) -> Result<Self, &'static str> {
        let mut collected = Collected::default();
        collected.add(value, 0)?;
        let datatype = match collected.kind.ok_or("it has no elements")? {
            Kind::Text => Datatype::Bytes,
            Kind::Bool => Datatype::Bool,
            Kind::Whole => numbers.unwrap_or(Datatype::Int64),
            Kind::Fraction => numbers.unwrap_or(Datatype::Fp32),
        };
        let dims = if collected.dims.is_empty() { single.to_vec() } else { collected.dims };
        let tensor =
            Self { name: name.to_owned(), datatype, dims, elements: Elements::Json(collected.flat.into_bytes()) };
        if tensor.scalars().is_some() { Ok(tensor) } else { Err("a number of it isn't one of the tensor's type") }
    }

    /// Returns its elements; `None` if one of them isn't of its type, or they are more or fewer than its dimensions
    /// say.
    pub(super) fn scalars(&self) -> Option<Vec<Scalar<'_>>> {
        let scalars: Vec<Scalar<'_>> = match &self.elements {
            Elements::Json(flat) => leaves(flat).map(|leaf| self.datatype.parse(leaf)).collect::<Option<_>>()?,
            Elements::Raw(bytes) => {
                cut(self.datatype, bytes)?.map(|one| self.datatype.read(one)).collect::<Option<_>>()?
            }
        };
        let wanted = self.dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
        (scalars.len() == wanted).then_some(scalars)
    }

    /// Whether its elements are of its type and as many as its dimensions say, and its numbers finite.
    pub(super) fn is_sound(&self) -> bool {
        let is_finite = |scalar: &Scalar<'_>| match scalar {
            Scalar::Single(number) => number.is_finite(),
            Scalar::Double(number) => number.is_finite(),
            Scalar::Bool(_) | Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Bytes(_) => true,
        };
        self.scalars().is_some_and(|scalars| scalars.iter().all(is_finite))
    }

    /// Returns its elements as a stretch of a flat JSON list; `None` if JSON has no form for one of them.
    pub(super) fn flat(&self) -> Option<Cow<'_, [u8]>> {
        if let Elements::Json(flat) = &self.elements {
            return Some(Cow::Borrowed(flat));
        }
        let mut out = Vec::new();
        for (place, scalar) in self.scalars()?.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            scalar.write_json(&mut out)?;
        }
        Some(Cow::Owned(out))
    }

    /// Returns its elements as bytes; `None` if they can't be of its type.
    pub(super) fn raw(&self) -> Option<Cow<'_, [u8]>> {
        if let Elements::Raw(bytes) = &self.elements {
            return Some(Cow::Borrowed(bytes));
        }
        raw(self.datatype, self.scalars()?).map(Cow::Owned)
    }

    /// Returns it as a JSON value: lists within lists, or its only element if it has no dimensions.
    pub(super) fn value(&self) -> Option<Vec<u8>> {
        let flat = self.flat()?;
        let mut out = Vec::with_capacity(flat.len() + 2);
        let mut leaves = leaves(&flat);
        // Of nothing there may be very many lists.
        (!self.dims.contains(&0)).then_some(())?;
        nest(&self.dims, &mut leaves, &mut out)?;
        leaves.next().is_none().then_some(out)
    }

    /// Returns its numbers as a JSON list; `None` if it isn't a vector of numbers.
    pub(super) fn vector(&self) -> Option<Vec<u8>> {
        self.is_vector().then_some(())?;
        // Those that are JSON already may yet be of another type, or more than there should be.
        self.scalars()?;
        let flat = self.flat()?;
        Some([&b"["[..], &*flat, &b"]"[..]].concat())
    }

    /// Returns its numbers as bytes, 4 each; `None` if it isn't a vector of numbers.
    pub(super) fn singles(&self) -> Option<Vec<u8>> {
        self.is_vector().then_some(())?;
        let numbers = self.scalars()?.iter().map(Scalar::single).collect::<Option<Vec<f32>>>()?;
        Some(numbers.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// Whether it is a list of numbers, but for dimensions of 1.
    fn is_vector(&self) -> bool {
        let is_number = !matches!(self.datatype, Datatype::Bool | Datatype::Bytes);
        let long = self.dims.iter().filter(|dim| **dim != 1).count();
        is_number && !self.dims.is_empty() && !self.dims.contains(&0) && long <= 1
    }
}

/// The elements of a JSON value, while it is walked through.
#[derive(Default)]
struct Collected {
    dims: Vec<usize>,
    kind: Option<Kind>,
    flat: String,
}

/// What elements are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Whole,
    Fraction,
}

impl Collected {
    /// Takes in a value that lies in `depth` lists.
    fn add(&mut self, value: &Node<'_>, depth: usize) -> Result<(), &'static str> {
        let kind = match value {
            Node::List(items) => return self.add_list(items, depth),
            Node::Object(_) => return Err("it is or has an object, and tensors have none"),
            Node::Text(_) => Kind::Text,
            Node::Word("true" | "false") => Kind::Bool,
            Node::Word("null") => return Err("it is or has a `null`, and tensors have none"),
            Node::Word(number) if number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => Kind::Whole,
            Node::Word(_) => Kind::Fraction,
        };
        if depth != self.dims.len() {
            return Err("its lists are not alike");
        }
        self.kind = Some(match (self.kind, kind) {
            (None, kind) => kind,
            (Some(known), kind) if known == kind => kind,
            (Some(Kind::Whole | Kind::Fraction), Kind::Whole | Kind::Fraction) => Kind::Fraction,
            _ => return Err("it has elements of several kinds"),
        });
        if !self.flat.is_empty() {
            self.flat.push(',');
        }
        value.write(&mut self.flat);
        Ok(())
    }

    fn add_list(&mut self, items: &[Node<'_>], depth: usize) -> Result<(), &'static str> {
        match self.dims.get(depth) {
            _ if items.is_empty() => return Err("it is or has an empty list"),
            Some(dim) if *dim == items.len() => {}
            None if self.kind.is_none() && depth == self.dims.len() && depth + 1 < DIMS_MAX => {
                self.dims.push(items.len());
            }
            _ => return Err("its lists are not alike"),
        }
        items.iter().try_for_each(|item| self.add(item, depth + 1))
    }
}

/// Returns the bytes of these elements of a tensor, one after the other; `None` if one isn't of this type.
pub(super) fn raw<'e>(datatype: Datatype, scalars: impl IntoIterator<Item = Scalar<'e>>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for scalar in scalars {
        scalar.write_raw(datatype, &mut out)?;
    }
    Some(out)
}

/// Bytes of the length before a text.
const PREFIX_BYTES: usize = 4;

/// Returns what follows an element that begins at `at` with its length, the lowest byte first.
pub(super) fn prefixed_end(data: &[u8], at: usize) -> Option<usize> {
    let (length, _) = data.get(at..)?.split_first_chunk::<PREFIX_BYTES>()?;
    let end = at.checked_add(PREFIX_BYTES)?.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (end <= data.len()).then_some(end)
}

/// Returns the bytes of each element.
fn cut(datatype: Datatype, bytes: &[u8]) -> Option<std::vec::IntoIter<&[u8]>> {
    let mut elements = Vec::new();
    match datatype.size() {
        Some(size) => {
            let chunks = bytes.chunks_exact(size);
            chunks.remainder().is_empty().then_some(())?;
            elements.extend(chunks);
        }
        None => {
            let mut at = 0;
            while at < bytes.len() {
                let end = prefixed_end(bytes, at)?;
                elements.push(bytes.get(at + PREFIX_BYTES..end)?);
                at = end;
            }
        }
    }
    Some(elements.into_iter())
}

/// Writes lists within lists.
fn nest<'l>(dims: &[usize], leaves: &mut impl Iterator<Item = &'l [u8]>, out: &mut Vec<u8>) -> Option<()> {
    let Some((dim, inner)) = dims.split_first() else {
        out.extend_from_slice(leaves.next()?);
        return Some(());
    };
    out.push(b'[');
    for place in 0..*dim {
        if place > 0 {
            out.push(b',');
        }
        nest(inner, leaves, out)?;
    }
    out.push(b']');
    Some(())
}

/// Returns the numbers, words and strings of a JSON list, flat or nested.
pub(super) fn leaves(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while matches!(list.get(at)?, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'[' | b']') {
            at += 1;
        }
        let start = at;
        at = leaf_end(list, at);
        list.get(start..at)
    })
}

/// Returns what follows the number, word or string that begins at `at`.
pub(super) fn leaf_end(data: &[u8], at: usize) -> usize {
    if data.get(at) == Some(&b'"') {
        return string_end(data, at);
    }
    let rest = data.get(at..).unwrap_or_default();
    let is_end = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r');
    // At least a byte, so that a walk always ends.
    at + rest.iter().position(is_end).unwrap_or(rest.len()).max(1)
}
