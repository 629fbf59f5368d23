//! The fields of a ModelInferRequest as they stand in its bytes. Decoding skips a field that isn't known, so that calls
//! which differ in nothing else would be taken for one another: a call that has one is refused before. Pure.

/// Why a message isn't decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwalked {
    /// It has a field that isn't read.
    Unknown {
        /// The kind of message that has it.
        message: &'static str,
        /// Its number.
        number: u64,
    },
    /// Its fields can't be told from each other, or one has another form than its type has.
    Broken,
}

/// The kinds of messages in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Input,
    Output,
    /// An entry of a map of parameters.
    Entry,
    Parameter,
    Contents,
}

/// What a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Numbers, a text, or bytes.
    Value,
    Message(Kind),
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Request => "ModelInferRequest",
            Self::Input => "InferInputTensor",
            Self::Output => "InferRequestedOutputTensor",
            Self::Entry => "parameters",
            Self::Parameter => "InferParameter",
            Self::Contents => "InferTensorContents",
        }
    }

    /// Returns what a field has; `None` if it isn't read. These are the fields of the messages in `message`.
    const fn field(self, number: u64) -> Option<Holds> {
        match (self, number) {
            (Self::Request, 1..=3 | 7)
            | (Self::Input, 1..=3)
            | (Self::Output | Self::Entry, 1)
            | (Self::Parameter, 1..=5)
            | (Self::Contents, 1..=8) => Some(Holds::Value),
            (Self::Request | Self::Input, 4) | (Self::Output, 2) => Some(Holds::Message(Self::Entry)),
            (Self::Request, 5) => Some(Holds::Message(Self::Input)),
            (Self::Request, 6) => Some(Holds::Message(Self::Output)),
            (Self::Input, 5) => Some(Holds::Message(Self::Contents)),
            (Self::Entry, 2) => Some(Holds::Message(Self::Parameter)),
            _ => None,
        }
    }
}

/// Checks that a request has no field that isn't read, at whatever depth.
///
/// # Errors
/// [`Unwalked`]
pub(super) fn check(request: &[u8]) -> Result<(), Unwalked> {
    walk(Kind::Request, request)
}

/// Walks through the fields of a message; it is as deep as the kinds are within each other, four at most.
fn walk(kind: Kind, mut rest: &[u8]) -> Result<(), Unwalked> {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let (number, form) = (key >> 3, key & 7);
        if number == 0 {
            return Err(Unwalked::Broken);
        }
        let holds = kind.field(number).ok_or(Unwalked::Unknown { message: kind.name(), number })?;
        match (form, holds) {
            (0, Holds::Value) => {
                varint(&mut rest)?;
            }
            (1, Holds::Value) => {
                cut(&mut rest, 8)?;
            }
            (5, Holds::Value) => {
                cut(&mut rest, 4)?;
            }
            (2, holds) => {
                let length = varint(&mut rest)?;
                let bytes = cut(&mut rest, length)?;
                if let Holds::Message(kind) = holds {
                    walk(kind, bytes)?;
                }
            }
            // Groups, and forms that there are not.
            _ => return Err(Unwalked::Broken),
        }
    }
    Ok(())
}

/// Takes a number of at most 64 bits off the front, the lowest seven first.
fn varint(rest: &mut &[u8]) -> Result<u64, Unwalked> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Unwalked::Broken)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        // Of the tenth byte a single bit is left.
        if shift == 63 && bits > 1 {
            return Err(Unwalked::Broken);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Unwalked::Broken)
}

/// Takes so many bytes off the front.
fn cut<'m>(rest: &mut &'m [u8], length: u64) -> Result<&'m [u8], Unwalked> {
    let length = usize::try_from(length).map_err(|_| Unwalked::Broken)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Unwalked::Broken)?;
    *rest = after;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::origin::protocol::kserve::grpc::message::{
        InferParameter, InferRequestedOutputTensor, InferTensor, InferTensorContents, ModelInferRequest,
        ParameterChoice,
    };

    /// Returns a message field of this number.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[(number << 3) | 2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
    }

    fn parameters() -> BTreeMap<String, InferParameter> {
        let choices = [
            ParameterChoice::Bool(true),
            ParameterChoice::Int64(-1),
            ParameterChoice::String("s".to_owned()),
            ParameterChoice::Double(0.5),
            ParameterChoice::Uint64(u64::MAX),
        ];
        let one = |(place, choice)| (format!("p{place}"), InferParameter { parameter_choice: Some(choice) });
        choices.into_iter().enumerate().map(one).collect()
    }

    /// Returns a request in which every field has a value.
    fn full() -> ModelInferRequest {
        let contents = InferTensorContents {
            bool_contents: vec![true],
            int_contents: vec![-1],
            int64_contents: vec![i64::MIN],
            uint_contents: vec![1],
            uint64_contents: vec![u64::MAX],
            fp32_contents: vec![0.5],
            fp64_contents: vec![0.5],
            bytes_contents: vec!["b".into()],
        };
        let input = InferTensor {
            name: "x".to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1, -1],
            parameters: parameters(),
            contents: Some(contents),
        };
        ModelInferRequest {
            model_name: "m".to_owned(),
            model_version: "1".to_owned(),
            id: "i".to_owned(),
            parameters: parameters(),
            inputs: vec![input],
            outputs: vec![InferRequestedOutputTensor { name: "y".to_owned(), parameters: parameters() }],
            raw_input_contents: vec!["r".into()],
        }
    }

    #[test]
    fn every_field_that_is_read_passes_and_any_other_is_named() {
        assert_eq!(check(&full().encode_to_vec()), Ok(()));
        assert_eq!(check(b""), Ok(()));
        // A field of the number 9, and one of the number 15 that is a group.
        let (other, group) = (&[0x48, 1][..], &[0x7b, 0x7c][..]);
        let within = |numbers: &[u8], bytes: &[u8]| {
            numbers.iter().rev().fold(bytes.to_vec(), |bytes, number| field(*number, &bytes))
        };
        for (path, message) in [
            (&[][..], "ModelInferRequest"),
            (&[5], "InferInputTensor"),
            (&[6], "InferRequestedOutputTensor"),
            (&[4], "parameters"),
            (&[5, 4], "parameters"),
            (&[6, 2], "parameters"),
            (&[4, 2], "InferParameter"),
            (&[5, 4, 2], "InferParameter"),
            (&[5, 5], "InferTensorContents"),
        ] {
            for (added, number) in [(other, 9), (group, 15)] {
                let bytes = [full().encode_to_vec(), within(path, added)].concat();
                assert_eq!(check(&bytes), Err(Unwalked::Unknown { message, number }), "{path:?}");
                let bytes = [within(path, added), full().encode_to_vec()].concat();
                assert_eq!(check(&bytes), Err(Unwalked::Unknown { message, number }), "{path:?}");
            }
        }
        for (path, number) in [(&[][..], 8), (&[5][..], 6), (&[6][..], 3), (&[4][..], 3), (&[4, 2][..], 6)] {
            let bytes = within(path, &field(number, b""));
            assert!(matches!(check(&bytes), Err(Unwalked::Unknown { .. })), "{path:?} {number}");
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_broken() {
        for bytes in [
            &b"\x0a\x02m"[..],
            b"\x0a",
            b"\x0a\xff",
            b"\x00",
            b"\x02\x00",
            // A message as a number, a text as a group, and a form that there is not.
            b"\x28\x01",
            b"\x0b\x0c",
            b"\x0e",
            // A number of more than 64 bits, and one that doesn't end.
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09\x01\x02",
        ] {
            assert_eq!(check(bytes), Err(Unwalked::Broken), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_broken_is_not_decoded(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if check(&bytes) == Err(Unwalked::Broken) {
                prop_assert!(ModelInferRequest::decode(&bytes[..]).is_err());
            }
        }

        #[test]
        fn a_field_is_refused_wherever_it_stands(number in 8_u64..1 << 29, value in any::<u64>()) {
            let mut bytes = full().encode_to_vec();
            for part in [number << 3, value] {
                let mut rest = part;
                while rest > 0x7f {
                    bytes.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                bytes.push(rest as u8);
            }
            let wanted = Err(Unwalked::Unknown { message: "ModelInferRequest", number });
            prop_assert_eq!(check(&bytes), wanted);
        }
    }
}
