//! The small web site of the demo: forty resources with the header fields that a well-configured origin sends.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use super::workload::input_text;

/// Fresh for ten minutes.
const PAGE: &str = "public, max-age=600";
/// Fresh for a day.
const ASSET: &str = "public, max-age=86400";
/// Different for every user, so never stored.
const PERSONAL: &str = "no-store";

/// The site, its resources in the order of their popularity.
#[derive(Debug)]
pub(super) struct Site {
    resources: Vec<Resource>,
    by_path: HashMap<String, usize>,
}

#[derive(Debug)]
struct Resource {
    path: String,
    media: &'static str,
    cache_control: &'static str,
    tags: String,
    etag: String,
    body: Bytes,
}

impl Site {
    /// Writes all resources; always the same.
    pub(super) fn new() -> Self {
        let mut resources = vec![
            page("/", "home"),
            asset("/assets/site.css", "text/css", 6),
            asset("/assets/app.js", "text/javascript", 48),
            page("/articles/1", "article-1 articles"),
            asset("/assets/logo.svg", "image/svg+xml", 2),
            page("/articles/2", "article-2 articles"),
            basket(),
            asset("/assets/chart.svg", "image/svg+xml", 36),
        ];
        for number in 3..=24 {
            resources.push(page(&format!("/articles/{number}"), &format!("article-{number} articles")));
        }
        for topic in ["tides", "harbours", "birds", "ferries", "lights", "weather"] {
            resources.push(page(&format!("/topics/{topic}"), "topics"));
        }
        for number in 1..=3 {
            resources.push(asset(&format!("/assets/icon-{number}.svg"), "image/svg+xml", 1));
        }
        resources.push(page("/about", "about"));
        let by_path = resources.iter().enumerate().map(|(index, it)| (it.path.clone(), index)).collect();
        Self { resources, by_path }
    }

    /// The paths, the most popular first.
    pub(super) fn paths(&self) -> Vec<String> {
        self.resources.iter().map(|resource| resource.path.clone()).collect()
    }

    /// Serves a request; a validator that still matches gets 304.
    pub(super) fn respond(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return bare(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some(resource) = self.by_path.get(path).and_then(|index| self.resources.get(*index)) else {
            return bare(StatusCode::NOT_FOUND);
        };
        resource.respond(method == Method::HEAD, headers.get_all(header::IF_NONE_MATCH))
    }
}

impl Resource {
    fn respond<'h>(
        &self,
        head: bool,
        if_none_match: impl IntoIterator<Item = &'h HeaderValue>,
    ) -> Response<Full<Bytes>> {
        let known = if_none_match.into_iter().filter_map(|value| value.to_str().ok()).any(|value| self.matches(value));
        let builder = Response::builder()
            .header(header::CACHE_CONTROL, self.cache_control)
            .header(header::ETAG, &self.etag)
            .header("surrogate-key", &self.tags);
        let response = if known {
            builder.status(StatusCode::NOT_MODIFIED).body(Full::default())
        } else {
            let body = if head { Bytes::new() } else { self.body.clone() };
            builder
                .header(header::CONTENT_TYPE, self.media)
                .header(header::CONTENT_LENGTH, self.body.len())
                .body(Full::new(body))
        };
        response.unwrap_or_else(|_| bare(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn matches(&self, if_none_match: &str) -> bool {
        if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag)
    }
}

fn page(path: &str, tags: &str) -> Resource {
    // Three to nine kilobytes, by its path.
    let kilobytes = 3 + path.bytes().map(usize::from).sum::<usize>() % 7;
    let head = format!("<!doctype html><title>{path}</title>\n<h1>{path}</h1>\n");
    resource(path, "text/html; charset=utf-8", PAGE, tags, filled(head, kilobytes, |text| format!("<p>{text}</p>\n")))
}

fn asset(path: &str, media: &'static str, kilobytes: usize) -> Resource {
    resource(path, media, ASSET, "assets", filled(String::new(), kilobytes, |text| format!("/* {text} */\n")))
}

fn basket() -> Resource {
    let head = "<!doctype html><title>Basket</title>\n<h1>Your basket</h1>\n".to_owned();
    resource("/basket", "text/html; charset=utf-8", PERSONAL, "basket", filled(head, 2, |text| format!("<p>{text}\n")))
}

fn resource(path: &str, media: &'static str, cache_control: &'static str, tags: &str, text: String) -> Resource {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let etag = format!("\"{}\"", &digest[..16]);
    Resource { path: path.to_owned(), media, cache_control, tags: tags.to_owned(), etag, body: text.into() }
}

/// Appends lines until the text has so many kilobytes.
fn filled(mut text: String, kilobytes: usize, line: impl Fn(&str) -> String) -> String {
    let mut number = text.len();
    while text.len() < kilobytes * 1_000 {
        text.push_str(&line(&input_text(number)));
        number += 1;
    }
    text
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http_body::Body;

    use super::*;

    fn ask(method: &Method, path: &str, validator: Option<&str>) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::new();
        if let Some(validator) = validator {
            headers.insert(header::IF_NONE_MATCH, validator.parse().unwrap());
        }
        Site::new().respond(method, path, &headers)
    }

    #[test]
    fn there_are_forty_resources_and_each_responds() {
        let paths = Site::new().paths();
        assert_eq!(paths.len(), 40);
        for path in paths {
            let response = ask(&Method::GET, &path, None);
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert!(response.body().size_hint().lower() >= 1_000, "{path}");
            assert!(response.headers().contains_key(header::CACHE_CONTROL), "{path}");
        }
    }

    #[test]
    fn a_validator_that_matches_saves_the_body() {
        let etag = ask(&Method::GET, "/", None).headers()[header::ETAG].to_str().unwrap().to_owned();
        for (validator, status) in [
            (etag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{etag}"), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            assert_eq!(ask(&Method::GET, "/", Some(&validator)).status(), status, "{validator}");
        }
    }

    #[test]
    fn head_has_a_length_and_no_body() {
        let response = ask(&Method::HEAD, "/assets/app.js", None);
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert_ne!(response.headers()[header::CONTENT_LENGTH], "0");
        assert_eq!(ask(&Method::POST, "/", None).status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask(&Method::GET, "/none", None).status(), StatusCode::NOT_FOUND);
    }
}
