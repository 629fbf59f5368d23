//! The findings of a check: every problem rather than the first, and the files that have to be there. A value that is
//! refused is replaced by its default, so that the rest can still be checked.

use std::{
    fs::{self, File},
    io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

use super::{
    AccessLog, Breaker,
    error::Problem,
    nearest::choices,
    raw::{self, Field},
    units::{ByteSize, Count, DAY_MS, HOUR_MS, Micros, Millis, Quantity},
};
use crate::message::network::Cidr;

/// Long enough for a host's name, short enough for a label.
const NAME_BYTES_MAX: usize = 253;

pub(super) struct Findings<'a> {
    /// Where relative paths begin.
    base: &'a Path,
    pub(super) problems: Vec<Problem>,
    pub(super) files: Vec<NeededFile>,
}

/// A file that has to be there before the configuration is used.
pub(super) struct NeededFile {
    span: Range<usize>,
    role: &'static str,
    pub(super) path: PathBuf,
}

impl<'a> Findings<'a> {
    pub(super) const fn new(base: &'a Path) -> Self {
        Self { base, problems: Vec::new(), files: Vec::new() }
    }

    pub(super) fn refuse(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { span: Some(span), message: message.into(), help: Some(help.into()) });
    }

    /// Reports that something is missing, so that there is no place to point at.
    pub(super) fn missing(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { span: None, message: message.into(), help: Some(help.into()) });
    }

    pub(super) fn count<N>(&mut self, key: &str, given: &Field<Count>, default: N, allowed: &RangeInclusive<u64>) -> N
    where
        N: TryFrom<u64>,
    {
        self.within(key, given, allowed).unwrap_or(default)
    }

    pub(super) fn bytes<N>(
        &mut self,
        key: &str,
        given: &Field<ByteSize>,
        default: N,
        allowed: &RangeInclusive<u64>,
    ) -> N
    where
        N: TryFrom<u64>,
    {
        self.within(key, given, allowed).unwrap_or(default)
    }

    pub(super) fn millis(
        &mut self,
        key: &str,
        given: &Field<Millis>,
        default: Duration,
        allowed: &RangeInclusive<u64>,
    ) -> Duration {
        self.within::<_, u64>(key, given, allowed).map_or(default, Duration::from_millis)
    }

    pub(super) fn micros(
        &mut self,
        key: &str,
        given: &Field<Micros>,
        default: Duration,
        allowed: &RangeInclusive<u64>,
    ) -> Duration {
        self.within::<_, u64>(key, given, allowed).map_or(default, Duration::from_micros)
    }

    pub(super) fn breaker(&mut self, raw: &raw::Breaker, base: Breaker) -> Breaker {
        let open = self.millis("open_ms", &raw.open_ms, base.open, &(1..=HOUR_MS));
        let open_max = self.millis("open_ms_max", &raw.open_ms_max, base.open_max.max(open), &(1..=DAY_MS));
        if let Some(given) = &raw.open_ms_max
            && open_max < open
        {
            self.refuse(
                given.span(),
                "`open_ms_max` is less than `open_ms`",
                format!("allowed is {} or more", open.as_millis()),
            );
        }
        Breaker {
            failures: self.count("failures", &raw.failures, base.failures, &(1..=1_000_000)),
            open,
            open_max: open_max.max(open),
        }
    }

    /// Reads one of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, given: &Spanned<String>, words: &[(&str, T)]) -> Option<T> {
        let text = given.get_ref().as_str();
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(given.span(), format!("`{key}` can't be `{text}`"), choices("allowed are", &allowed, text));
        }
        found
    }

    /// Reads the name of a header field.
    pub(super) fn header(&mut self, given: &Spanned<String>) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(given.get_ref().as_bytes()).ok();
        if name.is_none() {
            let help = "a header's name has letters, digits and `-`, such as `x-tags`";
            self.refuse(given.span(), format!("{:?} is no header's name", given.get_ref()), help);
        }
        name
    }

    /// Reads a network in CIDR notation.
    pub(super) fn network(&mut self, given: &Spanned<String>) -> Option<Cidr> {
        match given.get_ref().parse::<Cidr>() {
            Ok(network) => Some(network),
            Err(error) => {
                self.refuse(given.span(), error.to_string(), "write a network such as `10.0.0.0/8` or `2001:db8::/32`");
                None
            }
        }
    }

    /// Reads a name, as it appears in logs, metrics and keys.
    pub(super) fn name(&mut self, given: &Spanned<String>, role: &str) -> String {
        let name = given.get_ref();
        if !is_name(name) {
            self.refuse(
                given.span(),
                format!("{name:?} can't be the name of a {role}"),
                format!("a name is 1 to {NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, `-`, `_` and `.`"),
            );
        }
        name.clone()
    }

    /// Reads a name that must be defined elsewhere.
    pub(super) fn reference(&mut self, given: &Spanned<String>, role: &str, known: &[&str]) -> String {
        let name = given.get_ref();
        if !known.contains(&name.as_str()) {
            let help = if known.is_empty() {
                format!("no {role} is defined; one begins with `[{role}.{name}]`")
            } else {
                choices("defined are", known, name)
            };
            self.refuse(given.span(), format!("there is no {role} `{name}`"), help);
        }
        name.clone()
    }

    /// Reads a path; a relative one begins at the base.
    pub(super) fn path(&mut self, given: &Spanned<PathBuf>, role: &str) -> PathBuf {
        if given.get_ref().as_os_str().is_empty() {
            self.refuse(given.span(), format!("the path of the {role} is empty"), "write a path");
        }
        self.base.join(given.get_ref())
    }

    /// Reads the path of a file that has to be there.
    pub(super) fn file(&mut self, given: &Spanned<PathBuf>, role: &'static str) -> PathBuf {
        let path = self.path(given, role);
        self.files.push(NeededFile { span: given.span(), role, path: path.clone() });
        path
    }

    /// Reads the destination of the access log: a word or a path.
    pub(super) fn access_log(&mut self, given: &Spanned<String>) -> Option<AccessLog> {
        match given.get_ref().parse::<AccessLog>() {
            Ok(AccessLog::File(path)) => Some(AccessLog::File(self.base.join(path))),
            Ok(other) => Some(other),
            Err(error) => {
                self.refuse(given.span(), error.to_string(), "allowed are `off`, `stdout` and the path of a file");
                None
            }
        }
    }

    /// Reads directives for the node's own log.
    pub(super) fn log_filter(&mut self, given: &Spanned<String>) -> String {
        let text = given.get_ref();
        if let Err(error) = EnvFilter::builder().parse(text) {
            let help = "write a level such as `info`, or directives such as `info,holm::cache=debug`";
            self.refuse(given.span(), format!("`filter` can't be `{text}`: {error}"), help);
        }
        text.clone()
    }

    fn within<Q: Quantity, N: TryFrom<u64>>(
        &mut self,
        key: &str,
        given: &Field<Q>,
        allowed: &RangeInclusive<u64>,
    ) -> Option<N> {
        let given = given.as_ref()?;
        let number = given.get_ref().number();
        let fits = if allowed.contains(&number) { N::try_from(number).ok() } else { None };
        if fits.is_none() {
            self.refuse(
                given.span(),
                format!("`{key}` can't be {}", given.get_ref()),
                format!("allowed are {} to {}", Q::from(*allowed.start()), Q::from(*allowed.end())),
            );
        }
        fits
    }
}

impl NeededFile {
    /// Returns the problem that keeps the file from being used, if there is one.
    pub(super) fn problem(&self) -> Option<Problem> {
        let reason = match readable(&self.path) {
            Ok(true) => return None,
            Ok(false) => "it isn't a file".to_owned(),
            Err(error) => error.to_string(),
        };
        Some(Problem {
            span: Some(self.span.clone()),
            message: format!("the {} can't be read: {reason}", self.role),
            help: Some(format!("it is looked for at `{}`", self.path.display())),
        })
    }
}

/// Whether a text may be a name. It is also a label of a metric and a part of a key in Redis, so: no spaces, quotes,
/// braces or control characters.
pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a file can be read. Its kind is checked first: opening a pipe would wait for its writer.
fn readable(path: &Path) -> io::Result<bool> {
    if !fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    File::open(path).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "tenant-key", "edge_1.example.org", "9"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "a{b}", "é", "a/b", "a\n"] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(is_name(&"x".repeat(NAME_BYTES_MAX)) && !is_name(&"x".repeat(NAME_BYTES_MAX + 1)));
    }

    #[test]
    fn both_ends_of_a_range_are_allowed_and_their_neighbours_are_not() {
        for (number, expected) in [(3, None), (4, Some(4_u32)), (9, Some(9)), (10, None)] {
            let mut it = Findings::new(Path::new(""));
            let found: Option<u32> = it.within("k", &Some(Spanned::new(0..1, Count::from(number))), &(4..=9));
            assert_eq!((found, it.problems.is_empty()), (expected, expected.is_some()), "{number}");
        }
    }

    #[test]
    fn what_the_type_cannot_hold_is_refused_too() {
        let mut it = Findings::new(Path::new(""));
        let kept = it.count("k", &Some(Spanned::new(0..1, Count::from(256))), 7_u8, &(0..=1000));
        assert_eq!((kept, it.problems.len()), (7, 1));
    }

    #[test]
    fn a_needed_file_must_be_a_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there"), "").unwrap();
        for (name, reason) in [("there", None), ("gone", Some("No such file")), (".", Some("isn't a file"))] {
            let mut it = Findings::new(dir.path());
            let path = it.file(&Spanned::new(2..5, PathBuf::from(name)), "key");
            assert_eq!(path, dir.path().join(name));
            let problem = it.files[0].problem();
            match reason {
                None => assert_eq!(problem, None),
                Some(reason) => {
                    let problem = problem.expect("a problem");
                    assert!(problem.message.contains(reason), "{problem:?}");
                    assert_eq!(problem.span, Some(2..5));
                }
            }
        }
    }
}
