//! The normal form of a request target (RFC 3986, sections 5.2.4 and 6.2.2). Routes are matched, keys are made and URLs
//! are purged by it, so that no spelling of a path leads past a rule that another spelling of it meets.
//!
//! In a path: empty segments are merged, then dot segments removed, as file systems, nginx and Go do it; what is
//! unreserved is not percent-encoded, what a path can't hold is; hex digits are upper case. Reserved characters stay as
//! they came: `%2F` is no `/`, `%2B` no `+`. A `%` that begins no escape stays, too. Servers that are laxer than this
//! are what [`readings`] and [`reaches`] are for.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use thiserror::Error;

use super::raw_query;

/// Prefixes of a path by which it can be purged: its root, and those of its first segments.
pub const PREFIXES_MAX: usize = 16;

/// Why a target has no normal form.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TargetInvalid {
    /// `/../a`: servers differ in what that is, and no well-behaved client sends it.
    #[error("`..` in its path leads above the root")]
    AboveRoot,
    /// Percent-encoding has made it longer than a target can be.
    #[error("it is too long")]
    TooLong,
}

/// Returns a target in its normal form, and as it was received if that differs. The query stays as it came: origins may
/// have signed its very bytes.
///
/// # Errors
/// [`TargetInvalid`].
pub fn normalise(received: PathAndQuery) -> Result<(PathAndQuery, Option<PathAndQuery>), TargetInvalid> {
    let changed = match normal_path(received.path())? {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    let Some(mut text) = changed else { return Ok((received, None)) };
    if let Some(query) = received.query() {
        text.push('?');
        text.push_str(query);
    }
    let normal = PathAndQuery::try_from(text).map_err(|_| TargetInvalid::TooLong)?;
    Ok((normal, Some(received)))
}

/// Returns the normal form of a path that begins with `/`; borrowed if the path has it already.
///
/// # Errors
/// [`TargetInvalid::AboveRoot`].
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, TargetInvalid> {
    if is_normal_path(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let (resolved, is_within) = resolved(&recoded(path.as_bytes(), is_path_char));
    if is_within { Ok(Cow::Owned(resolved)) } else { Err(TargetInvalid::AboveRoot) }
}

/// Returns the normal form of a query, without its `?`: escapes as in a path, the order of its parameters as it came.
/// It is what a URL is purged by, and is never sent.
#[must_use]
pub fn normal_query(query: &str) -> Cow<'_, str> {
    let bytes = query.as_bytes();
    let is_normal = |(at, byte): (usize, &u8)| match byte {
        b'%' => is_normal_escape(&bytes[at..]),
        byte => is_query_char(*byte),
    };
    if bytes.iter().enumerate().all(is_normal) {
        return Cow::Borrowed(query);
    }
    Cow::Owned(recoded(raw_query::encoded(query).as_bytes(), is_query_char))
}

/// Returns other paths that lax servers take a path in its normal form for; none, and no allocation, for most paths.
/// Some decode `%2F`, `%5C` and `%3B` before they split the path, some drop what follows a `;` in a segment, some do
/// both, in either order, and resolve dots only then.
#[must_use]
pub fn readings(path: &str) -> Vec<String> {
    let mut readings: Vec<String> = Vec::new();
    for text in unresolved_readings(path).into_iter().flatten() {
        // They don't climb above the root, they stay there.
        let (reading, _) = resolved(&text);
        if reading != path && !readings.contains(&reading) {
            readings.push(reading);
        }
    }
    readings
}

/// Whether a path has dot segments once its delimiters are decoded or its parameters dropped: whatever it resolves to
/// by this node's rules, a server that decodes without resolving, or resolves only some of it, takes it for another
/// path.
#[must_use]
pub fn hides_dots(path: &str) -> bool {
    let has_dots = |text: &String| text.split('/').any(|segment| segment == "." || segment == "..");
    unresolved_readings(path).is_some_and(|readings| readings.iter().any(has_dots))
}

/// Returns the readings of a path by lax servers before they resolve its dots; `None`, and no allocation, for most
/// paths.
fn unresolved_readings(path: &str) -> Option<[String; 4]> {
    let is_divided = |path: &str| DELIMITERS.iter().any(|(escape, _)| path.contains(escape));
    if !(path.contains(';') || path.contains('%') && is_divided(path)) {
        return None;
    }
    let (undivided, bare) = (decoded_delimiters(path), without_parameters(path));
    let (bare_undivided, undivided_bare) = (decoded_delimiters(&bare), without_parameters(&undivided));
    Some([undivided, bare, bare_undivided, undivided_bare])
}

/// Whether servers that are sent `path` as it was received may differ in what it resolves to: it has dot segments, or
/// begins like the authority of a URL.
#[must_use]
pub fn is_unresolved(path: &str) -> bool {
    let recoded = recoded(path.as_bytes(), is_path_char);
    recoded.starts_with("//") || recoded.split('/').any(|segment| segment == "." || segment == "..")
}

/// Whether a path lies at or below a prefix, both in their normal form. They are compared decoded, as most servers look
/// at a path (`%40me` is `@me`), but for `%2F` and `%5C`, which separate nothing. A prefix ends at a segment's
/// boundary: in front of a `/`, or of the `;` that begins a segment's parameters.
#[must_use]
pub fn reaches(prefix: &str, path: &str) -> bool {
    let is_border = |rest: Option<u16>| prefix.ends_with('/') || matches!(rest, None | Some(SLASH | SEMICOLON));
    if !path.contains('%') && !prefix.contains('%') {
        return path.strip_prefix(prefix).is_some_and(|rest| is_border(rest.bytes().next().map(u16::from)));
    }
    let mut rest = symbols(path);
    symbols(prefix).all(|symbol| rest.next() == Some(symbol)) && is_border(rest.next())
}

/// Returns what of a path lies below a prefix that it [`reaches`]: nothing, or what begins with `/`, with the `;` of
/// parameters, or, if the prefix ends with `/`, anything. `None` if it doesn't reach it.
#[must_use]
pub fn below<'p>(prefix: &str, path: &'p str) -> Option<&'p str> {
    if !reaches(prefix, path) {
        return None;
    }
    let bytes = path.as_bytes();
    let width = |at: usize| if escaped(&bytes[at..]).is_some() { ESCAPE } else { 1 };
    path.get(symbols(prefix).fold(0, |at, _| at + width(at))..)
}

/// Returns how long a prefix is, for which an escape counts like what it stands for. Of two that a path reaches the
/// longer one is the more specific.
#[must_use]
pub fn prefix_length(prefix: &str) -> usize {
    symbols(prefix).count()
}

/// Returns the segments of a path as [`reaches`] compares them, each by its decoded bytes and its border, a `/` or `;`, in
/// front of them. Two paths of which one reaches the other begin with the same segments; empty ones are left out.
pub fn segments(path: &str) -> impl Iterator<Item = impl Iterator<Item = u16>> {
    let is_border = |(_, byte): &(usize, u8)| matches!(byte, b'/' | b';');
    let borders = path.bytes().enumerate().filter(is_border).map(|(at, _)| at);
    let ends = borders.clone().skip(1).chain([path.len()]);
    // One that is nothing but its `/` is the root, or ends a folder's path.
    let segments = borders.zip(ends).map(move |(start, end)| &path[start..end]).filter(|segment| *segment != "/");
    segments.map(symbols)
}

/// Returns the digest of a prefix, as [`prefix_digests`] has it.
#[must_use]
pub fn prefix_digest(prefix: &str) -> u64 {
    symbols(prefix).fold(DIGEST, digested)
}

/// Returns the digests of all prefixes by which [`reaches`] may find a path: those of prefixes that reach it are among
/// them, and others hardly ever. They come from the shortest to the longest.
pub fn prefix_digests(path: &str) -> impl Iterator<Item = u64> {
    let mut rest = symbols(path).peekable();
    let mut digest = DIGEST;
    let longer = std::iter::from_fn(move || {
        while let Some(symbol) = rest.next() {
            digest = digested(digest, symbol);
            if symbol == SLASH || matches!(rest.peek(), None | Some(&(SLASH | SEMICOLON))) {
                return Some(digest);
            }
        }
        None
    });
    std::iter::once(DIGEST).chain(longer)
}

/// The digest of nothing, and what each symbol multiplies it by (FNV-1a).
const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;
const DIGEST_PRIME: u64 = 0x0100_0000_01b3;

fn digested(digest: u64, symbol: u16) -> u64 {
    (digest ^ u64::from(symbol)).wrapping_mul(DIGEST_PRIME)
}

/// Whether two names, or two values, of query parameters are the same once they are decoded, as every server decodes
/// them: `us%65r` is `user`, and `+` a space.
#[must_use]
pub fn is_same_parameter(one: &str, other: &str) -> bool {
    let is_encoded = |name: &str| name.bytes().any(|byte| byte == b'%' || byte == b'+');
    one == other || (is_encoded(one) || is_encoded(other)) && decoded_name(one).eq(decoded_name(other))
}

const SLASH: u16 = b'/' as u16;
const SEMICOLON: u16 = b';' as u16;
/// Added to the byte of an escape that stands for itself.
const ESCAPED: u16 = 0x100;

/// Returns a path's decoded bytes; escaped separators and semicolons are none of them.
fn symbols(path: &str) -> impl Iterator<Item = u16> {
    decoded(path.as_bytes()).map(|(byte, is_escaped)| match byte {
        b'/' | b'\\' | b';' if is_escaped => u16::from(byte) + ESCAPED,
        byte => u16::from(byte),
    })
}

/// Returns the decoded bytes of a query parameter's name or value, in which `+` is a space.
pub fn decoded_name(name: &str) -> impl Iterator<Item = u8> {
    decoded(name.as_bytes()).map(|(byte, is_escaped)| if byte == b'+' && !is_escaped { b' ' } else { byte })
}

/// Returns a name as a segment of a path: what isn't `unreserved` is percent-encoded (RFC 3986, section 2.1).
#[must_use]
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            escape(&mut out, byte);
        }
    }
    out
}

/// Returns the bytes of a percent-encoded text, and whether each was escaped. A `%` that begins no escape stays.
pub fn decoded(mut text: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    std::iter::from_fn(move || {
        let (first, rest) = text.split_first()?;
        match escaped(text) {
            Some(byte) => {
                text = &text[ESCAPE..];
                Some((byte, true))
            }
            None => {
                text = rest;
                Some((*first, false))
            }
        }
    })
}

/// Bytes of `%2F`.
const ESCAPE: usize = 3;

/// Returns the byte that the escape at the beginning stands for, if there is one.
fn escaped(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else { return None };
    let (high, low) = (char::from(high).to_digit(16)?, char::from(low).to_digit(16)?);
    // Two hex digits fit into a byte.
    Some((high * 16 + low) as u8)
}

/// Whether a byte is `unreserved` (RFC 3986, section 2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte is `pchar` (RFC 3986, section 3.3), but for escapes, or the `/` between segments.
const fn is_path_char(byte: u8) -> bool {
    PATH_CHARS[byte as usize]
}

const PATH_CHARS: [bool; 256] = {
    let mut chars = [false; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        chars[at] = is_unreserved(byte)
            || matches!(
                byte,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/'
            );
        at += 1;
    }
    chars
};

/// Whether a byte may be in a query (RFC 3986, section 3.4).
const fn is_query_char(byte: u8) -> bool {
    is_path_char(byte) || byte == b'?'
}

/// Whether a path is in its normal form, as most are: one pass without an allocation.
fn is_normal_path(path: &[u8]) -> bool {
    let mut before = 0;
    for (at, &byte) in path.iter().enumerate() {
        let is_normal = match byte {
            b'/' => before != b'/',
            b'.' => before != b'/' || !is_dots(&path[at..]),
            b'%' => is_normal_escape(&path[at..]),
            byte => is_path_char(byte),
        };
        if !is_normal {
            return false;
        }
        before = byte;
    }
    true
}

/// Whether the segment that begins here is `.` or `..`.
const fn is_dots(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// Whether an escape is written in upper case and needed, or the `%` begins none.
fn is_normal_escape(text: &[u8]) -> bool {
    let is_lower = |digit: Option<&u8>| digit.is_some_and(u8::is_ascii_lowercase);
    escaped(text).is_none_or(|byte| !is_unreserved(byte) && !is_lower(text.get(1)) && !is_lower(text.get(2)))
}

/// Returns text with its escapes in their normal form.
fn recoded(mut text: &[u8], is_allowed: impl Fn(u8) -> bool) -> String {
    let mut whole = String::with_capacity(text.len() + ESCAPE);
    while let Some((&first, rest)) = text.split_first() {
        let byte = escaped(text);
        text = if byte.is_some() { &text[ESCAPE..] } else { rest };
        match byte {
            Some(byte) if is_unreserved(byte) && !completes_escape(&whole, byte) => whole.push(char::from(byte)),
            Some(byte) => escape(&mut whole, byte),
            None if first == b'%' || is_allowed(first) => whole.push(char::from(first)),
            None => escape(&mut whole, first),
        }
    }
    whole
}

/// Whether a decoded byte would make an escape out of a `%` that is none: of `%%34%31` must not become `%41`, which is
/// another path.
fn completes_escape(text: &str, byte: u8) -> bool {
    let is_begun = match text.as_bytes() {
        [.., b'%'] => true,
        [.., b'%', digit] => digit.is_ascii_hexdigit(),
        _ => false,
    };
    is_begun && byte.is_ascii_hexdigit()
}

fn escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from(DIGITS[usize::from(digit)]));
    }
}

/// Returns the path without empty and dot segments, and whether it never climbed above the root.
fn resolved(path: &str) -> (String, bool) {
    let (mut segments, mut is_within, mut is_folder) = (Vec::new(), true, true);
    for segment in path.split('/').skip(1) {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => is_within &= segments.pop().is_some(),
            name => segments.push(name),
        }
    }
    let mut whole = String::with_capacity(path.len());
    for segment in segments {
        whole.push('/');
        whole.push_str(segment);
    }
    if is_folder {
        whole.push('/');
    }
    (whole, is_within)
}

/// Escapes that lax servers decode too early, and what they take them for.
const DELIMITERS: [(&str, &str); 3] = [("%2F", "/"), ("%5C", "/"), ("%3B", ";")];

fn decoded_delimiters(path: &str) -> String {
    DELIMITERS.iter().fold(path.to_owned(), |path, (escape, meant)| path.replace(escape, meant))
}

/// Returns every segment up to its first `;`.
fn without_parameters(path: &str) -> String {
    let names: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    names.join("/")
}

#[cfg(test)]
mod tests;
