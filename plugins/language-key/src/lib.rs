//! Keys by language: what a client accepts (RFC 9110, section 12.5.4) is brought down to one of the few languages that
//! there are, so that the many ways to ask for German share one response.

use std::cmp::Reverse;

use holm_sdk::{Fault, Input, Key, Plan, Policy, Values, Verdict, config::Table, slot};

/// The operator's table.
#[derive(Debug)]
struct LanguageKey {
    /// The languages that there are; the first is for clients that ask for none of them.
    languages: Vec<String>,
}

impl Policy for LanguageKey {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let languages = table.texts("languages")?.unwrap_or_default();
        table.finish()?;
        if languages.is_empty() {
            return Err(Fault::new(1, "\"languages\" names no language"));
        }
        Ok(Self { languages })
    }
}

impl Key for LanguageKey {
    fn plan(&self) -> Plan {
        let accepted = Input::Header("accept-language".into());
        Plan::Call(vec![accepted, Input::Authority, Input::Path, Input::QueryAll])
    }

    fn derive(&self, values: Values) -> Result<Verdict, Fault> {
        let accepted = values.first().and_then(Option::as_deref).unwrap_or_default();
        let language = self.negotiated(&String::from_utf8_lossy(accepted)).as_bytes().to_vec();
        let place = values.iter().skip(1).map(|value| slot(value.as_deref()));
        Ok(Verdict::Lookup([language].into_iter().chain(place).collect()))
    }
}

impl LanguageKey {
    /// The language for the best liked range that there is one for.
    fn negotiated(&self, accepted: &str) -> &str {
        let mut ranges: Vec<Range> = accepted.split(',').filter_map(Range::parse).collect();
        ranges.sort_by_key(|range| Reverse(range.quality));
        let (wanted, refused): (Vec<Range>, Vec<Range>) = ranges.into_iter().partition(|range| range.quality > 0);
        let found = wanted.iter().find_map(|range| {
            let languages = self.languages.iter().filter(|language| !refused.iter().any(|no| no.bars(language, range)));
            languages.filter_map(|language| Some((range.fit(language)?, language))).min_by_key(|(fit, _)| Reverse(*fit))
        });
        found.map_or(&self.languages[0], |(_, language)| language)
    }
}

/// An element of `Accept-Language`.
struct Range<'a> {
    /// Such as `de`, `de-AT` or `*`.
    name: &'a str,
    /// Its quality value (RFC 9110, section 12.4.2), in thousandths.
    quality: u32,
}

impl<'a> Range<'a> {
    /// `None` if there is none, or its weight is no weight.
    fn parse(element: &'a str) -> Option<Self> {
        let (name, parameter) = element.split_once(';').unwrap_or((element, "q=1"));
        let (key, weight) = parameter.split_once('=')?;
        let quality = if key.trim().eq_ignore_ascii_case("q") { thousandths(weight.trim())? } else { return None };
        Some(Self { name: name.trim(), quality }).filter(|range| !range.name.is_empty())
    }

    /// Whether the range covers this language: `de` covers `de-AT` as well.
    fn covers(&self, language: &str) -> bool {
        begins(language, self.name)
    }

    /// Whether this one, of weight 0, keeps a language from another range; not if that one names it more closely.
    fn bars(&self, language: &str, other: &Self) -> bool {
        self.covers(language) && !(other.covers(language) && other.name.len() > self.name.len())
    }

    /// The rank of a language for the range: exactly best, then the more particular of those that cover it (`de` for
    /// `de-AT`), then any that it covers (`de-AT` for `de` or `*`).
    fn fit(&self, language: &str) -> Option<usize> {
        if begins(self.name, language) {
            Some(language.len())
        } else if self.name == "*" || self.covers(language) {
            Some(0)
        } else {
            None
        }
    }
}

/// Whether `prefix` is the whole of `tag`, or its first subtags.
fn begins(tag: &str, prefix: &str) -> bool {
    let (tag, prefix) = (tag.as_bytes(), prefix.as_bytes());
    tag.len() >= prefix.len()
        && tag[..prefix.len()].eq_ignore_ascii_case(prefix)
        && matches!(tag.get(prefix.len()), None | Some(b'-'))
}

/// A weight, `0` to `1` with at most three digits behind the point.
fn thousandths(weight: &str) -> Option<u32> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: u32 = if digits { format!("{fraction:0<3}").parse().ok()? } else { return None };
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}

holm_sdk::policy!(LanguageKey: key);

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accepted: &str) -> String {
        let policy = LanguageKey::configure(r#"{"languages": ["en", "de", "de-AT", "pt-BR", "fr"]}"#).unwrap();
        policy.negotiated(accepted).to_owned()
    }

    #[test]
    fn the_best_liked_language_that_there_is() {
        for (accepted, language) in [
            ("", "en"),
            ("de", "de"),
            ("DE-at", "de-AT"),
            ("de-CH", "de"),
            ("de-AT-1996", "de-AT"),
            ("pt", "pt-BR"),
            ("pt-PT", "en"),
            ("deu", "en"),
            ("es, fr;q=0.8, de;q=0.9", "de"),
            ("fr ; q=0.5 , de ;Q=0.5", "fr"),
            ("*", "en"),
            ("*;q=0.1, fr;q=0.01", "en"),
            ("*, en;q=0", "de"),
            ("de;q=0, fr;q=0.1", "fr"),
            ("*;q=0.5, de;q=0, en;q=0", "pt-BR"),
            ("de-AT, de;q=0", "de-AT"),
            ("de-CH, de;q=0, fr;q=0.5", "fr"),
            ("en;q=0", "en"),
            (",, de ,", "de"),
        ] {
            assert_eq!(negotiated(accepted), language, "{accepted}");
        }
    }

    #[test]
    fn what_has_no_weight_that_is_one_is_passed_over() {
        for accepted in
            ["de;q=2", "de;q=1.001", "de;q=0.1234", "de;q=.5", "de;q=", "de;level=1", "de;q=a", "de;", ";q=1"]
        {
            assert_eq!(negotiated(&format!("{accepted}, fr;q=0.1")), "fr", "{accepted}");
        }
        for (weight, thousands) in [("0", 0), ("0.", 0), ("0.5", 500), ("0.123", 123), ("1", 1_000), ("1.000", 1_000)] {
            assert_eq!(thousandths(weight), Some(thousands), "{weight}");
        }
    }

    #[test]
    fn a_table_without_languages_is_refused() {
        for config in ["{}", r#"{"languages": []}"#] {
            assert_eq!(LanguageKey::configure(config).unwrap_err().detail, "\"languages\" names no language");
        }
    }

    #[test]
    fn the_key_is_the_language_and_the_place() {
        let policy = LanguageKey::configure(r#"{"languages": ["en"]}"#).unwrap();
        let values = [Some("xx"), Some("a.example"), Some("/p"), None];
        let values = values.map(|value| value.map(|text| text.as_bytes().to_vec())).into();
        let wanted = ["en", "\u{1}a.example", "\u{1}/p", "\0"].map(|part| part.as_bytes().to_vec());
        assert_eq!(policy.derive(values).unwrap(), Verdict::Lookup(wanted.into()));
    }
}
