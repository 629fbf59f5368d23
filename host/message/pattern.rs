//! Patterns of URLs: URLs in which each `*` stands for any text, by which what is stored can be purged.
//!
//! A pattern is compared with URLs in their normal form, so what it has beside its `*` is brought into that form. A `*`
//! crosses every border behind the host: it stands for `/` and `?` as well, and for nothing. What follows the first one
//! may be of the path or of the query, then, in which URLs have different forms; a pattern to which that makes a
//! difference is refused, since it could match nothing that its author means.

use std::{fmt, sync::Arc};

use thiserror::Error;

use super::{
    target,
    url::{Url, UrlInvalid},
};

/// Bytes of a pattern in its normal form.
pub const PATTERN_BYTES_MAX: usize = 2_048;

/// The `*` of a pattern; several in a row are one.
pub const STARS_MAX: usize = 16;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PatternInvalid {
    /// What precedes its first `*` doesn't begin a URL.
    #[error(transparent)]
    Url(#[from] UrlInvalid),
    /// It is a URL, and is to be purged as one.
    #[error("it has no `*`; one URL is purged by \"url\" (`--url`)")]
    Starless,
    /// It is of more than one origin.
    #[error("its host and port have a `*`, and are to be given in full")]
    Origin,
    /// No request has one.
    #[error("it has a fragment (`#`)")]
    Fragment,
    /// `%4*`.
    #[error("a `*` divides an escape such as %20")]
    DividedEscape,
    /// `*%61`.
    #[error(
        "behind a `*` it has an escape of a hex digit, in whose place the digit is to be written: a URL may have either"
    )]
    EscapedDigit,
    /// It would match fewer URLs than one might think.
    #[error("it has a `%2A`, in whose place a `*` is to be written, which matches that as well")]
    EscapedStar,
    /// In a path it would have another form than in a query.
    #[error("behind a `*` it has an empty segment or one of dots (`//`, `/./`, `/../`), which no path has")]
    Segments,
    /// Over [`PATTERN_BYTES_MAX`].
    #[error("its normal form is too long")]
    TooLong,
    /// Over [`STARS_MAX`].
    #[error("it has too many `*`")]
    TooManyStars,
}

/// A pattern in its normal form: the scheme, host and port of one origin, and at least one `*` behind them. Clones
/// share their text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Reads a pattern whose fixed parts are spelled as those of [`Url::parse`] may be.
    ///
    /// # Errors
    /// [`PatternInvalid`].
    pub fn parse(text: &str) -> Result<Self, PatternInvalid> {
        let star = text.find('*').ok_or(PatternInvalid::Starless)?;
        if text.trim() != text || text.contains(char::is_control) {
            return Err(UrlInvalid::Unprintable.into());
        }
        if text.contains('#') {
            return Err(PatternInvalid::Fragment);
        }
        check_escapes(text.as_bytes())?;
        // With its `*`, which keeps the segment that it ends from being taken for one of dots.
        let (begun, rest) = text.split_at(star + 1);
        if begun.split_once("://").is_some_and(|(_, named)| !named.contains(['/', '?'])) {
            return Err(PatternInvalid::Origin);
        }
        let url = Url::parse(begun)?;
        let rest = target::normal_query(rest);
        if url.query.is_none() && has_other_form_in_path(&rest) {
            return Err(PatternInvalid::Segments);
        }
        let mut whole = url.normal();
        for next in rest.chars() {
            if next != '*' || !whole.ends_with('*') {
                whole.push(next);
            }
        }
        if whole.len() > PATTERN_BYTES_MAX {
            return Err(PatternInvalid::TooLong);
        }
        if whole.matches('*').count() > STARS_MAX {
            return Err(PatternInvalid::TooManyStars);
        }
        Ok(Self(whole.into()))
    }

    /// Reads what [`Pattern::as_str`] returned, here or in another process. `None` for anything else: another version
    /// may read more into it.
    #[must_use]
    pub fn stored(text: &str) -> Option<Self> {
        Self::parse(text).ok().filter(|pattern| &*pattern.0 == text)
    }

    /// Returns its normal form, which has no white space.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what all URLs that it matches begin with: what precedes its first `*`.
    #[must_use]
    pub fn beginning(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// Whether it matches a URL in its normal form. Takes a time that grows with the sum of both lengths, whatever they
    /// are, and allocates nothing.
    #[must_use]
    pub fn matches(&self, url: &str) -> bool {
        is_match(&self.0, url)
    }

    /// Whether it may match a URL without a query, which is in its normal form, or that URL with any query.
    #[must_use]
    pub fn may_match_with_query(&self, url: &str) -> bool {
        let beginning = self.beginning();
        // Behind the `*` a query can be whatever the rest wants.
        url.starts_with(beginning) || beginning.strip_prefix(url).is_some_and(|rest| rest.starts_with('?'))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What precedes the first `*` has to begin the text and what follows the last one to end it; what is between two of
/// them is looked for from left to right, once each. The first place is as good as any: it leaves the most to the rest.
fn is_match(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

/// Refuses escapes that have no normal form beside a `*`, or would be taken for one.
fn check_escapes(text: &[u8]) -> Result<(), PatternInvalid> {
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        match &text[at + 1..] {
            [b'*', ..] => return Err(PatternInvalid::DividedEscape),
            [digit, b'*', ..] if digit.is_ascii_hexdigit() => return Err(PatternInvalid::DividedEscape),
            [b'2', b'a' | b'A', ..] => return Err(PatternInvalid::EscapedStar),
            _ => {}
        }
    }
    let behind_star = |(at, _): (usize, &u8)| may_complete_escape(&text[at + 1..]);
    if text.iter().enumerate().filter(|(_, byte)| **byte == b'*').any(behind_star) {
        return Err(PatternInvalid::EscapedDigit);
    }
    Ok(())
}

/// Whether an escape near the beginning of what follows a `*` stands for a hex digit: behind a stray `%`, which the `*`
/// may end with, a URL keeps it, since the digit would make another escape of that.
fn may_complete_escape(rest: &[u8]) -> bool {
    let rest = match rest {
        [digit, rest @ ..] if digit.is_ascii_hexdigit() => rest,
        _ => rest,
    };
    match rest {
        [b'%', high @ b'3'..=b'6', low, ..] => {
            let digits = [*high, *low].map(|digit| char::from(digit).to_digit(16));
            let [Some(high), Some(low)] = digits else { return false };
            u8::try_from(high * 16 + low).is_ok_and(|byte| byte.is_ascii_hexdigit())
        }
        _ => false,
    }
}

/// Whether a text that follows a `*` would change as part of a path, whose segments are merged and resolved. What
/// follows a `?` is part of a query for certain.
fn has_other_form_in_path(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if matches!(segment, "." | "..") || segment.is_empty() && !is_last {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::target::TargetInvalid;

    /// Whether a pattern matches, by trying everything.
    fn is_naive_match(pattern: &[u8], text: &[u8]) -> bool {
        // Row by row: whether the first so many bytes of the pattern match the first so many of the text.
        let mut row = vec![false; text.len() + 1];
        row[0] = true;
        for byte in pattern {
            let mut next = Vec::with_capacity(row.len());
            for (at, before) in row.iter().enumerate() {
                let is_match = match byte {
                    b'*' => *before || next.last() == Some(&true),
                    byte => at > 0 && row[at - 1] && text[at - 1] == *byte,
                };
                next.push(is_match);
            }
            row = next;
        }
        row[text.len()]
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, url, wanted) in [
            ("http://a/item/*.json", "http://a/item/1.json", true),
            ("http://a/item/*.json", "http://a/item/.json", true),
            ("http://a/item/*.json", "http://a/item/x/y.json", true),
            ("http://a/item/*.json", "http://a/item/1.json?v=2", false),
            ("http://a/item/*.json*", "http://a/item/1.json?v=2", true),
            ("http://a/item/*.json", "http://a/item/1.json.gz", false),
            ("http://a/item/*.json", "http://a/item/1.html?next=2.json", true),
            ("http://a/item/*.json", "https://a/item/1.json", false),
            ("http://a/item/*.json", "http://b/item/1.json", false),
            ("http://a/*", "http://a/", true),
            ("http://a/*", "http://a:81/", false),
            ("http://a/x*", "http://a/x", true),
            ("http://a/x?*", "http://a/x", false),
            ("http://a/x?*", "http://a/x?", true),
            ("http://a/*/item/*", "http://a/de/item/1", true),
            ("http://a/*/item/*", "http://a/item/1", false),
            ("http://a/*ab*ba", "http://a/aba", false),
            ("http://a/*ab*ba", "http://a/abba", true),
            ("http://a/*ab*ab", "http://a/xabxab", true),
            ("http://a/*?id=7", "http://a/x?a=b&id=7", false),
            ("http://a/*id=7", "http://a/x?a=b&id=7", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(url), wanted, "{pattern} of {url}");
        }
    }

    #[test]
    fn whether_some_query_would_match() {
        for (pattern, url, wanted) in [
            ("http://a/p*", "http://a/p", true),
            ("http://a/*.json", "http://a/p", true),
            ("http://a/p?q=*", "http://a/p", true),
            ("http://a/p?q=*", "http://a/p/q", false),
            ("http://a/p/*", "http://a/p", false),
            ("http://a/pq*", "http://a/p", false),
            ("http://b/*", "http://a/p", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().may_match_with_query(url), wanted, "{pattern} of {url}");
        }
    }

    #[test]
    fn fixed_parts_take_the_form_that_urls_have() {
        for (given, wanted) in [
            ("HTTPS://Shop.Example.:443/%7euser/*.JPG", "https://shop.example/~user/*.JPG"),
            ("http://a?x=*", "http://a/?x=*"),
            ("http://a/*", "http://a/*"),
            ("http://a//x/../y/*", "http://a/y/*"),
            ("http://a/x/.*", "http://a/x/.*"),
            ("http://a/x/..*", "http://a/x/..*"),
            ("http://a/x/*.", "http://a/x/*."),
            ("http://a/*%e9%2f%41*", "http://a/*%E9%2FA*"),
            ("http://a/x y*é", "http://a/x%20y*%C3%A9"),
            ("http://bücher.example/*", "http://xn--bcher-kva.example/*"),
            ("http://a/*\\x", "http://a/*%5Cx"),
            ("http://a/***x**", "http://a/*x*"),
            ("http://a/x//?u=*http://b//c/../d", "http://a/x/?u=*http://b//c/../d"),
            ("http://a/*?u=http://b/./", "http://a/*?u=http://b/./"),
            ("http://a/*/", "http://a/*/"),
            ("http://a/*/*/x", "http://a/*/*/x"),
        ] {
            let pattern = Pattern::parse(given).unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(pattern.as_str(), wanted, "{given}");
            assert_eq!(Pattern::stored(wanted), Some(pattern), "{wanted}");
            assert!(given == wanted || Pattern::stored(given).is_none(), "{given}");
        }
    }

    #[test]
    fn what_has_no_normal_form_is_refused_with_its_reason() {
        let long = format!("http://a/*{}", "x".repeat(PATTERN_BYTES_MAX - 9));
        let longest = &long[..PATTERN_BYTES_MAX];
        let stars = |count: usize| format!("http://a/{}", "*x".repeat(count));
        assert!(Pattern::parse(longest).is_ok() && Pattern::parse(&stars(STARS_MAX)).is_ok());
        for (given, wanted) in [
            ("http://a/x", PatternInvalid::Starless),
            ("", PatternInvalid::Starless),
            ("*", UrlInvalid::Relative.into()),
            ("/*", UrlInvalid::Relative.into()),
            ("shop.example/*", UrlInvalid::Relative.into()),
            ("*://a/", UrlInvalid::Relative.into()),
            ("ftp://a/*", UrlInvalid::Scheme.into()),
            ("http://user@a/*", UrlInvalid::UserInfo.into()),
            ("http:///*", UrlInvalid::Host.into()),
            ("http://a/* ", UrlInvalid::Unprintable.into()),
            ("http://a/*\n/x", UrlInvalid::Unprintable.into()),
            ("http://a/../*", UrlInvalid::Target(TargetInvalid::AboveRoot).into()),
            ("http://*", PatternInvalid::Origin),
            ("http://*.example/", PatternInvalid::Origin),
            ("http://a*", PatternInvalid::Origin),
            ("http://a:*/x", PatternInvalid::Origin),
            ("http://a/*#x", PatternInvalid::Fragment),
            ("http://a/x#*", PatternInvalid::Fragment),
            ("http://a/%*", PatternInvalid::DividedEscape),
            ("http://a/%4*1", PatternInvalid::DividedEscape),
            ("http://a/*?x=%e*", PatternInvalid::DividedEscape),
            ("http://a/*%614", PatternInvalid::EscapedDigit),
            ("http://a/*4%61", PatternInvalid::EscapedDigit),
            ("http://a/*f%39", PatternInvalid::EscapedDigit),
            ("http://a/*%46?x", PatternInvalid::EscapedDigit),
            ("http://a/%2A*", PatternInvalid::EscapedStar),
            ("http://a/*?%2a", PatternInvalid::EscapedStar),
            ("http://a/*/../x", PatternInvalid::Segments),
            ("http://a/*/%2e%2E", PatternInvalid::Segments),
            ("http://a/*/./x?y", PatternInvalid::Segments),
            ("http://a/*x//y", PatternInvalid::Segments),
            ("http://a/*to=http://b/", PatternInvalid::Segments),
            (long.as_str(), PatternInvalid::TooLong),
            (stars(STARS_MAX + 1).as_str(), PatternInvalid::TooManyStars),
        ] {
            assert_eq!(Pattern::parse(given), Err(wanted), "{given}");
        }
    }

    /// A matcher that goes back would try each place of each piece.
    #[test]
    fn many_stars_and_a_long_url_are_one_pass() {
        let pattern = Pattern::parse(&format!("http://a/{}", "*aab".repeat(STARS_MAX))).unwrap();
        let url = |end: &str| format!("http://a/{}{end}", "aa".repeat(30_000));
        assert!(!pattern.matches(&url("")));
        assert!(!pattern.matches(&url(&"aab".repeat(STARS_MAX - 1))));
        assert!(pattern.matches(&url(&"aab".repeat(STARS_MAX))));
        let longest = format!("http://a/*{}b*", "a".repeat(2_000));
        assert!(!Pattern::parse(&longest).unwrap().matches(&url("")));
    }

    proptest! {
        #[test]
        fn it_matches_what_a_naive_one_does(pattern in "[ab]{0,3}(\\*[ab]{0,3}){0,5}", text in "[ab]{0,14}") {
            prop_assert_eq!(is_match(&pattern, &text), is_naive_match(pattern.as_bytes(), text.as_bytes()));
        }

        /// Whatever is put in place of a part of a URL that is stored, the pattern finds that URL.
        #[test]
        fn a_url_with_a_star_for_a_part_of_it_matches_it(
            path in "(/[a-df-z%é29;+ ]{1,4}){1,4}/?",
            query in "(\\?[a-z%{é7eE&=+/]{0,8})?",
            cut in 0_usize..30,
            length in 0_usize..6,
        ) {
            let target = format!("{path}{query}");
            let chars: Vec<char> = target.chars().collect();
            let start = (1 + cut).min(chars.len());
            let end = (start + length).min(chars.len());
            let kept = |part: &[char]| part.iter().collect::<String>();
            let given = format!("http://A{}*{}", kept(&chars[..start]), kept(&chars[end..]));
            let url = Url::parse(&format!("http://a{target}")).map(|url| url.normal());
            // An escape of which only the end is kept has another form.
            let is_cut = kept(&chars[..end]).contains('%');
            if let (Ok(pattern), Ok(url), false) = (Pattern::parse(&given), url, is_cut) {
                prop_assert!(pattern.matches(&url), "{} of {}", pattern, url);
                prop_assert_eq!(Pattern::stored(pattern.as_str()), Some(pattern));
            }
        }
    }
}
