//! `holm why`

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use holm::{
    admin::{Why, client},
    report::{WhyInput, WhyLookup, WhyReport, WhyRule, WhyStored},
};

use super::admin::AdminFlags;

/// What the node may take: a policy is called, and tiers are read.
const ADMIN_TIME: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct WhyFlags {
    /// The URL as clients ask for it
    url: String,
    /// A header field of the request, as `name: value`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method [default: GET, or POST with a body]
    #[arg(long)]
    method: Option<String>,
    /// The file with the request's body, which is text
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminFlags,
}

/// Shows what the node would do with a request, and why.
///
/// # Errors
/// What went wrong, for a person to read.
pub(crate) async fn run(flags: WhyFlags) -> Result<ExitCode, String> {
    explained(flags).await.map_err(|error| format!("holm why: {error}"))
}

async fn explained(flags: WhyFlags) -> Result<ExitCode, String> {
    let WhyFlags { url, headers, method, body, json, admin } = flags;
    let admin = admin.access()?;
    let headers = headers.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>()?;
    let read = |file: &PathBuf| {
        fs::read_to_string(file).map_err(|error| format!("{} can't be read as text: {error}", file.display()))
    };
    let body = body.as_ref().map(read).transpose()?;
    let method = method.or_else(|| body.is_some().then(|| "POST".to_owned()));
    let asked = Why::json(&url, method.as_deref(), &headers, body.as_deref());
    let responded = client::call(&admin, http::Method::POST, "/why", Some(&asked), ADMIN_TIME).await;
    let (status, value) = responded.map_err(|error| error.to_string())?;
    if !status.is_success() {
        let detail = value["detail"].as_str().map_or_else(|| value.to_string(), str::to_owned);
        return Err(format!("{} responded {status}: {detail}", admin.address));
    }
    if json {
        println!("{value}");
        return Ok(ExitCode::SUCCESS);
    }
    let report = serde_json::from_value(value).map_err(|error| format!("the report can't be read: {error}"))?;
    print!("{}", rendered(&report));
    Ok(ExitCode::SUCCESS)
}

fn field(line: &str) -> Result<(String, String), String> {
    match line.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{line}` is not a header field; allowed is `name: value`")),
    }
}

/// Returns a report for a person to read. Writing to a `String` can't fail.
fn rendered(report: &WhyReport) -> String {
    let mut text = format!("{} {}\n", report.method, report.url);
    if let Some(route) = &report.route {
        let host = route.host.as_deref().unwrap_or("any host");
        let _ = writeln!(
            text,
            "route     {} (the {} of {} by their order; {host}, {}; found by the {})",
            route.name, route.place, route.routes, route.path, route.found_by
        );
    }
    if let Some(policy) = &report.policy {
        let _ = writeln!(text, "policy    {policy}");
    }
    let _ = writeln!(text, "plan      {}", step(&report.plan, report.reason.as_deref()));
    rule(&mut text, &report.rule);
    for lookup in &report.lookups {
        look_up(&mut text, lookup);
    }
    if report.left_out > 0 {
        let _ = writeln!(text, "({} more items)", report.left_out);
    }
    text
}

fn step(word: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| word.to_owned(), |reason| format!("{word} ({reason})"))
}

fn rule(text: &mut String, rule: &WhyRule) {
    let by = match (&rule.policy, &rule.hook, &rule.section) {
        (Some(policy), Some(hook), _) => format!(" [{policy}, hook {hook}]"),
        (_, _, Some(section)) => format!(" [{section}]"),
        _ => String::new(),
    };
    let _ = writeln!(text, "  because {}{by}", rule.text);
}

fn look_up(text: &mut String, lookup: &WhyLookup) {
    if let Some(item) = lookup.item {
        let _ = writeln!(text, "item {item}");
    }
    let key = lookup.key.as_deref().unwrap_or("none");
    let _ = writeln!(text, "key       {key} (made by {})", lookup.made_by);
    for input in &lookup.inputs {
        let _ = writeln!(text, "  {} = {}", input.name, value(input));
    }
    if let Some(variant) = &lookup.variant {
        let _ = writeln!(text, "variant   {variant}");
    }
    if let Some(remark) = &lookup.remark {
        let _ = writeln!(text, "remark    {remark}");
    }
    match &lookup.stored {
        Some(found) => stored(text, found),
        None => text.push_str("stored    nothing\n"),
    }
    let _ = writeln!(text, "outcome   {}: {}", lookup.outcome, step(&lookup.next, lookup.reason.as_deref()));
    rule(text, &lookup.rule);
    if let Some(nearest) = &lookup.nearest {
        let _ = writeln!(text, "nearest   {} ({}, {} ms old)", nearest.key, nearest.tier, nearest.age_ms);
        for one in &nearest.differs {
            let _ = writeln!(text, "  differs {}: {} here, {} there", one.name, value(&one.here), value(&one.there));
        }
    }
}

fn value(input: &WhyInput) -> String {
    match (&input.value, &input.digest) {
        _ if input.hidden => "(hidden)".to_owned(),
        (Some(value), _) => format!("{value:?}"),
        (None, Some(digest)) => format!("blake3 {digest}"),
        (None, None) => "(none)".to_owned(),
    }
}

fn stored(text: &mut String, stored: &WhyStored) {
    let WhyStored { tier, status, length, age_ms, lifetime_ms, left_ms, lifetime_from, .. } = stored;
    let _ = writeln!(text, "stored    in {tier}: status {status}, {length} bytes");
    let _ =
        writeln!(text, "  age {age_ms} ms of a lifetime of {lifetime_ms} ms, {left_ms} ms left; from {lifetime_from}");
    let _ = writeln!(
        text,
        "  then stale for {} ms while it is refreshed, {} ms if the origin fails, {} ms if it can't be reached",
        stored.grace_ms, stored.stale_if_error_ms, stored.stale_if_unreachable_ms
    );
    let _ = writeln!(text, "  purged: {}; for requests with Authorization: {}", stored.purged, stored.for_authorized);
    if !stored.vary.is_empty() {
        let _ = writeln!(text, "  varies by {}", stored.vary.join(", "));
    }
    if !stored.tags.is_empty() {
        let _ = writeln!(text, "  tags {}", stored.tags.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use holm::report::{WhyDifference, WhyNearest};

    use super::*;

    #[test]
    fn header_fields_are_read_as_curl_reads_them() {
        let of = |line| field(line).ok();
        assert_eq!(of("Accept: a:b"), Some(("Accept".to_owned(), "a:b".to_owned())));
        assert_eq!(of("x:"), Some(("x".to_owned(), String::new())));
        assert!(of("x").is_none() && of(": y").is_none());
    }

    #[test]
    fn a_report_names_what_differs_and_the_rule() {
        let input = |value: &str| WhyInput {
            name: "query-all".to_owned(),
            value: Some(value.to_owned()),
            ..WhyInput::default()
        };
        let difference = WhyDifference { name: "query-all".to_owned(), here: input("a=1"), there: input("a=2") };
        let hidden = WhyInput { name: "header(cookie)".to_owned(), hidden: true, ..WhyInput::default() };
        let lookup = WhyLookup {
            inputs: vec![hidden],
            outcome: "miss".to_owned(),
            next: "collapse".to_owned(),
            rule: WhyRule {
                text: "nothing".to_owned(),
                section: Some("RFC 9111, section 4".to_owned()),
                ..WhyRule::default()
            },
            nearest: Some(WhyNearest { differs: vec![difference], ..WhyNearest::default() }),
            ..WhyLookup::default()
        };
        let text = rendered(&WhyReport { lookups: vec![lookup], ..WhyReport::default() });
        for said in [
            "differs query-all: \"a=1\" here, \"a=2\" there",
            "because nothing [RFC 9111, section 4]",
            "header(cookie) = (hidden)",
            "outcome   miss: collapse",
        ] {
            assert!(text.contains(said), "{said} isn't in\n{text}");
        }
    }
}
