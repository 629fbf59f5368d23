//! Content codings (RFC 9110, section 8.4): decoding of bodies. Pure, and within limits.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_ENCODING};
use thiserror::Error;

/// Codings that one body may have: each may multiply what it is given.
const CODINGS_MAX: usize = 2;

/// Streams that may follow one another in one coding: a decoder is made for each, however few bytes it has.
const STREAMS_MAX: usize = 4_096;

/// Bytes of a brotli stream that its decoder holds at a time.
const PIECE_BYTES: usize = 4096;

/// How far back a zstd frame may refer, as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why a body can't be decoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Undecodable {
    /// A coding that isn't known here.
    #[error("`{0}` is no content coding that is known here; known are gzip, deflate, br and zstd")]
    Unknown(String),
    /// One coding within another, several times.
    #[error("the body has more than {max} content codings", max = CODINGS_MAX)]
    TooMany,
    /// More streams follow one another than may.
    #[error("the body has more than {max} compressed streams one after the other", max = STREAMS_MAX)]
    TooManyStreams,
    /// It isn't what its coding says, or something follows its end.
    #[error("the body is not what its content coding says")]
    Broken,
    /// Decoded it is over the limit.
    #[error("decoded the body has more than {bytes_max} bytes")]
    TooLarge {
        /// Bytes that are allowed.
        bytes_max: u64,
    },
}

/// Whether a message says that its body is encoded.
#[must_use]
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING)
}

/// Returns the body without its codings, for a message that is sent on as it came. One that has none is shared, not
/// copied.
///
/// # Errors
/// [`Undecodable`] says why it can't be read. What could be read in two ways can't: a second gzip member or zstd frame,
/// of which many readers see the first only, and bytes behind the end of a stream.
pub fn decode(headers: &HeaderMap, body: &Bytes, bytes_max: u64) -> Result<Bytes, Undecodable> {
    without_codings(headers, body, bytes_max, 1)
}

/// Returns the body without its codings, for a message of which only that is sent on: members of gzip (RFC 1952, section
/// 2.2) and frames of zstd (RFC 8878, section 3.1) may follow one another. The limit is for all of them together.
///
/// # Errors
/// [`Undecodable`] says why it can't be read.
pub fn decode_all(headers: &HeaderMap, body: &Bytes, bytes_max: u64) -> Result<Bytes, Undecodable> {
    without_codings(headers, body, bytes_max, STREAMS_MAX)
}

fn without_codings(
    headers: &HeaderMap,
    body: &Bytes,
    bytes_max: u64,
    streams_max: usize,
) -> Result<Bytes, Undecodable> {
    let mut decoded = body.clone();
    for coding in codings(headers)?.into_iter().rev() {
        decoded = coding.decode(&decoded, bytes_max, streams_max)?.into();
    }
    Ok(decoded)
}

/// Returns the name of the coding that a message's body has, for metrics.
#[must_use]
pub fn label(headers: &HeaderMap) -> &'static str {
    match codings(headers).as_deref() {
        Ok([]) => "identity",
        Ok([coding]) => coding.as_str(),
        Ok(_) => "several",
        Err(_) => "unknown",
    }
}

/// Returns the codings in the order in which they were applied.
fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Undecodable> {
    let mut codings = Vec::new();
    for line in headers.get_all(CONTENT_ENCODING) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
                continue;
            }
            let unknown = || Undecodable::Unknown(String::from_utf8_lossy(name).into_owned());
            codings.push(Coding::named(name).ok_or_else(unknown)?);
            if codings.len() > CODINGS_MAX {
                return Err(Undecodable::TooMany);
            }
        }
    }
    Ok(codings)
}

#[derive(Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        const NAMES: [(&[u8], Coding); 5] = [
            (b"gzip", Coding::Gzip),
            (b"x-gzip", Coding::Gzip),
            (b"deflate", Coding::Deflate),
            (b"br", Coding::Brotli),
            (b"zstd", Coding::Zstd),
        ];
        NAMES.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, coding)| coding)
    }

    /// Decodes the streams of a body, of which only gzip and zstd may have more than one.
    fn decode(self, encoded: &[u8], bytes_max: u64, streams_max: usize) -> Result<Vec<u8>, Undecodable> {
        let streams_max = if matches!(self, Self::Gzip | Self::Zstd) { streams_max } else { 1 };
        let (mut decoded, mut left) = (Vec::new(), encoded);
        for _ in 0..streams_max {
            left = self.decode_stream(left, &mut decoded, bytes_max)?;
            if left.is_empty() {
                return Ok(decoded);
            }
        }
        Err(if streams_max == 1 { Undecodable::Broken } else { Undecodable::TooManyStreams })
    }

    /// Decodes one stream behind what is decoded already, and returns what follows it.
    fn decode_stream<'e>(
        self,
        encoded: &'e [u8],
        decoded: &mut Vec<u8>,
        bytes_max: u64,
    ) -> Result<&'e [u8], Undecodable> {
        match self {
            Self::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(encoded);
                read(&mut decoder, decoded, bytes_max)?;
                Ok(decoder.into_inner())
            }
            // In the zlib format, as the RFC has it; some send the bare stream, which others can't read.
            Self::Deflate => {
                let mut decoder = flate2::bufread::ZlibDecoder::new(encoded);
                read(&mut decoder, decoded, bytes_max)?;
                Ok(decoder.into_inner())
            }
            Self::Brotli => {
                let mut decoder = brotli_decompressor::Decompressor::new(LastByteApart(encoded), PIECE_BYTES);
                read(&mut decoder, decoded, bytes_max)?;
                Ok(decoder.into_inner().0)
            }
            Self::Zstd => {
                let mut decoder = zstd_decoder(encoded).map_err(|_| Undecodable::Broken)?;
                read(&mut decoder, decoded, bytes_max)?;
                Ok(decoder.finish())
            }
        }
    }
}

fn zstd_decoder<R: BufRead>(encoded: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(encoded)?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Reads to the end of the stream, so that its checksum is checked as well.
fn read(decoder: impl Read, decoded: &mut Vec<u8>, bytes_max: u64) -> Result<(), Undecodable> {
    let room = bytes_max.saturating_sub(decoded.len() as u64);
    decoder.take(room.saturating_add(1)).read_to_end(decoded).map_err(|_| Undecodable::Broken)?;
    if decoded.len() as u64 > bytes_max { Err(Undecodable::TooLarge { bytes_max }) } else { Ok(()) }
}

/// A reader that returns the last byte by itself: a decoder with a buffer of its own that never asks for it has met an
/// end before.
struct LastByteApart<'e>(&'e [u8]);

impl Read for LastByteApart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = if self.0.len() > 1 { self.0.len() - 1 } else { self.0.len() };
        let taken = (&self.0[..ready]).read(buffer)?;
        self.0 = &self.0[taken..];
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = br#"{"model":"m","input":"weather"}"#;
    /// [`TEXT`] as brotli has it.
    const BROTLI: [u8; 32] = [
        0x1b, 0x1e, 0x00, 0x00, 0x84, 0x60, 0x76, 0xe4, 0xc7, 0x01, 0x65, 0x5c, 0x56, 0x6b, 0xfe, 0xfb, 0x94, 0xa4,
        0x93, 0x85, 0xea, 0xc2, 0xe6, 0xd9, 0xab, 0x1e, 0x69, 0x05, 0x94, 0x34, 0xf1, 0x01,
    ];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 1).unwrap()
    }

    fn all_decoded(line: &'static str, body: &[u8], bytes_max: u64) -> Result<Bytes, Undecodable> {
        let headers = [(CONTENT_ENCODING, HeaderValue::from_static(line))].into_iter().collect();
        decode_all(&headers, &Bytes::copy_from_slice(body), bytes_max)
    }

    fn decoded(lines: &[&'static str], body: &[u8], bytes_max: u64) -> Result<Bytes, Undecodable> {
        let lines = lines.iter().map(|line| (CONTENT_ENCODING, HeaderValue::from_static(line)));
        decode(&lines.collect(), &Bytes::copy_from_slice(body), bytes_max)
    }

    #[test]
    fn what_is_encoded_is_read() {
        for (lines, body) in [
            (&[][..], TEXT.to_vec()),
            (&["identity"], TEXT.to_vec()),
            (&["gzip"], gzip(TEXT)),
            (&["X-GZip"], gzip(TEXT)),
            (&["deflate"], deflate(TEXT)),
            (&["br"], BROTLI.to_vec()),
            (&["zstd"], zstd(TEXT)),
            (&["deflate, gzip"], gzip(&deflate(TEXT))),
            (&["zstd", " , gzip"], gzip(&zstd(TEXT))),
        ] {
            assert_eq!(decoded(lines, &body, 1000).as_deref(), Ok(TEXT), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_in_one_way_is_not_read() {
        let behind = |mut body: Vec<u8>| {
            body.extend_from_slice(b"x");
            body
        };
        for (line, body) in [
            ("gzip", TEXT.to_vec()),
            ("gzip", vec![]),
            ("gzip", behind(gzip(TEXT))),
            ("gzip", [gzip(TEXT), gzip(TEXT)].concat()),
            ("deflate", behind(deflate(TEXT))),
            ("deflate", deflate(TEXT)[2..].to_vec()),
            ("br", behind(BROTLI.to_vec())),
            ("br", BROTLI[..31].to_vec()),
            ("zstd", behind(zstd(TEXT))),
            ("zstd", [zstd(TEXT), zstd(TEXT)].concat()),
            ("gzip, gzip", gzip(TEXT)),
        ] {
            assert_eq!(decoded(&[line], &body, 1000), Err(Undecodable::Broken), "{line}: {body:?}");
        }
        assert_eq!(decoded(&["gzip, compress"], TEXT, 1000), Err(Undecodable::Unknown("compress".to_owned())));
        assert_eq!(decoded(&["gzip, gzip, gzip"], TEXT, 1000), Err(Undecodable::TooMany));
    }

    #[test]
    fn streams_that_follow_one_another_are_one_body_where_no_other_reads_them() {
        let text = TEXT.repeat(40);
        let thrice = text.repeat(3);
        let length = thrice.len() as u64;
        let skipped = [&b"\x50\x2a\x4d\x18\x02\0\0\0xy"[..], &zstd(&text)[..]].concat();
        for (line, body) in [
            ("gzip", [gzip(&text), gzip(b""), gzip(&text), gzip(&text)].concat()),
            ("zstd", [zstd(&text), zstd(&text), zstd(b""), zstd(&text)].concat()),
            ("zstd", [zstd(&text), zstd(&text), skipped].concat()),
            ("zstd, gzip", [gzip(&zstd(&text)), gzip(&[zstd(&text), zstd(&text)].concat())].concat()),
        ] {
            assert_eq!(all_decoded(line, &body, length).as_deref(), Ok(&thrice[..]), "{line}");
            let over = Err(Undecodable::TooLarge { bytes_max: length - 1 });
            assert_eq!(all_decoded(line, &body, length - 1), over, "{line}: the limit is for all of them");
            assert_eq!(decoded(&[line], &body, length), Err(Undecodable::Broken), "{line}");
            for wrong in [&body[..body.len() - 1], &[&body[..], b"x"].concat()[..]] {
                assert_eq!(all_decoded(line, wrong, length), Err(Undecodable::Broken), "{line}");
            }
        }
        for (line, body) in [("deflate", deflate(TEXT).repeat(2)), ("br", BROTLI.repeat(2)), ("gzip", vec![])] {
            assert_eq!(all_decoded(line, &body, 1000), Err(Undecodable::Broken), "{line}");
        }
        let many = |count: usize| gzip(b"").repeat(count);
        assert_eq!(all_decoded("gzip", &many(STREAMS_MAX), 0).as_deref(), Ok(&b""[..]));
        assert_eq!(all_decoded("gzip", &many(STREAMS_MAX + 1), 0), Err(Undecodable::TooManyStreams));
    }

    #[test]
    fn metrics_know_a_body_by_its_only_coding() {
        for (lines, wanted) in [
            (&[][..], "identity"),
            (&["identity"], "identity"),
            (&["X-GZip"], "gzip"),
            (&["br, identity"], "br"),
            (&["deflate", "zstd"], "several"),
            (&["a-clients-own-word"], "unknown"),
        ] {
            let lines = lines.iter().map(|line| (CONTENT_ENCODING, HeaderValue::from_static(line)));
            assert_eq!(label(&lines.collect()), wanted);
        }
    }

    #[test]
    fn a_bomb_is_not_inflated() {
        let zeros = vec![0; 1 << 20];
        for (line, body) in [("gzip", gzip(&zeros)), ("deflate", deflate(&zeros)), ("zstd", zstd(&zeros))] {
            assert!(body.len() < 4096, "{line}: {}", body.len());
            assert_eq!(decoded(&[line], &body, 65_536), Err(Undecodable::TooLarge { bytes_max: 65_536 }), "{line}");
            assert_eq!(decoded(&[line], &body, 1 << 20).map(|it| it.len()), Ok(1 << 20), "{line}");
        }
        let twice = gzip(&gzip(&zeros));
        assert_eq!(decoded(&["gzip, gzip"], &twice, 65_536), Err(Undecodable::TooLarge { bytes_max: 65_536 }));
        let length = TEXT.len() as u64;
        assert_eq!(decoded(&["br"], &BROTLI, length).as_deref(), Ok(TEXT));
        assert_eq!(decoded(&["br"], &BROTLI, length - 1), Err(Undecodable::TooLarge { bytes_max: length - 1 }));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for (line, encoded) in [("gzip", gzip(&body)), ("deflate", deflate(&body)), ("zstd", zstd(&body))] {
                let read = decoded(&[line], &encoded, 300);
                prop_assert_eq!(read.as_deref(), Ok(&body[..]));
            }
        }

        #[test]
        fn no_body_is_too_odd(body in prop::collection::vec(any::<u8>(), 0..60)) {
            for line in ["gzip", "deflate", "br", "zstd"] {
                prop_assert!(!decoded(&[line], &body, 1000).is_ok_and(|it| it.len() > 1000), "{}", line);
                prop_assert!(!all_decoded(line, &body, 1000).is_ok_and(|it| it.len() > 1000), "{}", line);
            }
        }
    }
}
