//! Why a configuration is refused, with the place of each problem.

use std::{
    fmt, io, iter,
    ops::Range,
    path::{Path, PathBuf},
};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::{nearest::choices, units::ByteSize};
use crate::report::ConfigFinding;

/// Problems that are shown; more are only counted, since one corrects some and tries again.
const PROBLEMS_SHOWN_MAX: usize = 20;

/// Why a configuration is refused. Its `Display` is one line per problem, for logs; [`Error::render`] shows the places.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// The file is too long to be a configuration.
    #[error("{}: longer than the {bytes_max} that a configuration may have", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: ByteSize,
    },
    /// Its values are invalid.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

impl Error {
    pub(super) fn invalid(name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        Self::Invalid(Box::new(Invalid { source: NamedSource::new(name, text.to_owned()), problems }))
    }

    /// Renders it for the terminal: every problem with its line, the offending piece underlined, and what is allowed.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Invalid(invalid) => invalid.render(colour),
            Self::Read { .. } | Self::TooLarge { .. } => format!("{self}\n"),
        }
    }

    /// Returns everything that is wrong, each with its place. No piece of the file is in it but what a message quotes.
    #[must_use]
    pub fn findings(&self) -> Vec<ConfigFinding> {
        let of_file = |path: &Path, message: String| {
            vec![ConfigFinding { place: path.display().to_string(), message, allowed: None }]
        };
        match self {
            Self::Invalid(invalid) => invalid.findings(),
            Self::Read { path, cause } => of_file(path, cause.to_string()),
            Self::TooLarge { path, bytes_max } => {
                of_file(path, format!("longer than the {bytes_max} that a configuration may have"))
            }
        }
    }
}

/// All problems of one text, in its order.
#[derive(Debug)]
pub struct Invalid {
    source: NamedSource<String>,
    problems: Vec<Problem>,
}

impl Invalid {
    fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false);
        let mut out = String::new();
        for problem in self.problems.iter().take(PROBLEMS_SHOWN_MAX) {
            let shown = Shown { problem, source: &self.source };
            if handler.render_report(&mut out, &shown).is_err() {
                out += &self.line(problem);
                out.push('\n');
            }
        }
        if self.problems.len() > 1 {
            out += &format!("{}: {} problems\n", self.source.name(), self.problems.len());
        }
        out
    }

    fn findings(&self) -> Vec<ConfigFinding> {
        let finding = |problem: &Problem| ConfigFinding {
            place: self.place(problem),
            message: problem.message.clone(),
            allowed: problem.help.clone(),
        };
        self.problems.iter().map(finding).collect()
    }

    /// `holm.toml:12:3`
    fn place(&self, problem: &Problem) -> String {
        let name = self.source.name();
        match &problem.span {
            Some(span) => {
                let (line, column) = position(self.source.inner(), span.start);
                format!("{name}:{line}:{column}")
            }
            None => name.to_owned(),
        }
    }

    /// `holm.toml:12:3: what is wrong (what is allowed)`
    fn line(&self, problem: &Problem) -> String {
        let place = self.place(problem);
        match &problem.help {
            Some(help) => format!("{place}: {} ({help})", problem.message),
            None => format!("{place}: {}", problem.message),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.line(problem))?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The offending bytes; none if something is missing altogether.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong.
    pub(super) message: String,
    /// What is allowed.
    pub(super) help: Option<String>,
}

impl Problem {
    /// Returns the TOML reader's error in this program's terms.
    pub(super) fn from_toml(error: &toml::de::Error) -> Self {
        let (message, help) = translate(error.message());
        Self { span: error.span(), message, help }
    }

    /// Returns it with its place counted from `from` on.
    pub(super) fn counted_from(self, from: usize) -> Self {
        let span = self.span.map(|span| span.start.saturating_sub(from)..span.end.saturating_sub(from));
        Self { span, ..self }
    }
}

/// A problem together with its text, in miette's form.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    source: &'a NamedSource<String>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem.span {
            Some(_) => f.write_str(&self.problem.message),
            None => write!(f, "{}: {}", self.source.name(), self.problem.message),
        }
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.problem.help.as_deref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        // A place past the end, as of a string that is never closed, is shown at the end.
        let end = self.source.inner().len();
        let span = span.start.min(end)..span.end.min(end);
        Some(Box::new(iter::once(LabeledSpan::new_primary_with_span(None, span))))
    }
}

/// Returns the names in backquotes.
pub(super) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Translates serde's messages, which have fields, maps and sequences, into TOML's keys, tables and arrays.
fn translate(message: &str) -> (String, Option<String>) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = quoted(rest);
        let given = names.next().unwrap_or_default();
        let allowed: Vec<&str> = names.collect();
        return (format!("unknown key `{given}`"), Some(choices("the keys here are", &allowed, given)));
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return (format!("the key {name} is missing"), None);
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            (format!("{} doesn't belong here", in_toml(found)), Some(format!("expected is {}", in_toml(expected))))
        }
        None => (message.to_owned(), None),
    }
}

fn in_toml(words: &str) -> &str {
    match words {
        "map" | "a map" => "a table",
        "sequence" => "an array",
        "a sequence" => "an array: `[…]`, or `[[…]]` above each of several tables",
        other => other,
    }
}

/// Returns line and column, both from 1, the column in bytes as miette counts it.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    (line, before.len() - start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(span: Option<Range<usize>>, message: &str, help: Option<&str>) -> Problem {
        Problem { span, message: message.to_owned(), help: help.map(str::to_owned) }
    }

    #[test]
    fn positions_count_from_one() {
        let text = "ab\ncd\n";
        for (offset, expected) in [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 1)), (6, (3, 1)), (99, (3, 1))] {
            assert_eq!(position(text, offset), expected, "{offset}");
        }
    }

    #[test]
    fn the_readers_words_become_ours() {
        let table = [
            (
                "unknown field `hots`, expected one of `hosts`, `path`",
                "unknown key `hots`",
                "`hosts`, `path`; did you mean `hosts`?",
            ),
            ("unknown field `x`, expected `address`", "unknown key `x`", "the keys here are `address`"),
            ("missing field `pool`", "the key `pool` is missing", ""),
            ("invalid type: map, expected a sequence", "a table doesn't belong here", "expected is an array"),
            (
                "invalid value: integer `-1`, expected a whole number",
                "integer `-1` doesn't belong here",
                "a whole number",
            ),
            ("duplicate key", "duplicate key", ""),
        ];
        for (message, what, allowed) in table {
            let (said, help) = translate(message);
            assert_eq!(said, what);
            assert!(help.as_deref().unwrap_or_default().contains(allowed), "{help:?} lacks {allowed}");
            assert_eq!(help.is_none(), allowed.is_empty(), "{message}");
        }
    }

    #[test]
    fn a_rendered_problem_shows_file_line_piece_and_help() {
        let text = "a = 1\nb = 2\nc = 3\n";
        let error = Error::invalid("t.toml", text, vec![problem(Some(10..11), "`b` is 2", Some("allowed is 1"))]);
        let shown = error.render(false);
        for piece in ["× `b` is 2", "[t.toml:2:5]", "2 │ b = 2", "help: allowed is 1"] {
            assert!(shown.contains(piece), "{shown}");
        }
        let underline = shown.lines().find(|line| line.contains('─') && line.contains('·')).expect("an underline");
        let piece = shown.lines().find(|line| line.contains("b = 2")).expect("the line");
        let column = underline.chars().position(|it| it == '─');
        assert_eq!(column, Some(piece.trim_end().chars().count() - 1), "under the value: {shown}");
        assert!(!shown.contains('\u{1b}'), "no colour was asked for");
        assert!(error.render(true).contains('\u{1b}'));
        assert_eq!(error.to_string(), "t.toml:2:5: `b` is 2 (allowed is 1)");
    }

    #[test]
    fn problems_come_in_the_order_of_the_text_and_are_counted() {
        let problems =
            vec![problem(Some(6..7), "second", None), problem(Some(0..1), "first", None), problem(None, "none", None)];
        let error = Error::invalid("t.toml", "a = 1\nb = 2\n", problems);
        let places: Vec<String> = error.findings().into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["t.toml", "t.toml:1:1", "t.toml:2:1"]);
        assert_eq!(error.to_string(), "t.toml: none\nt.toml:1:1: first\nt.toml:2:1: second");
        let shown = error.render(false);
        assert!(shown.contains("× t.toml: none") && shown.ends_with("t.toml: 3 problems\n"), "{shown}");
    }

    #[test]
    fn a_place_at_or_past_the_end_is_still_shown() {
        for (text, span) in [("", 0..0), ("", 3..9), ("a = \"", 5..5), ("a = \"", 4..99)] {
            let shown =
                Error::invalid("t.toml", text, vec![problem(Some(span.clone()), "unclosed", None)]).render(false);
            assert!(shown.contains("unclosed") && shown.contains("t.toml:1:"), "{span:?}: {shown}");
            assert!(!shown.contains("Failed to read"), "{span:?}: {shown}");
        }
    }

    #[test]
    fn no_more_than_some_are_shown() {
        let problems = (0..30).map(|at| problem(None, &format!("number {at}."), None)).collect();
        let shown = Error::invalid("t.toml", "", problems).render(false);
        assert!(shown.contains("number 19.") && !shown.contains("number 20.") && shown.contains("30 problems"));
    }
}
