//! The admin API as an axum router over a [`Control`].

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};
use tower::ServiceExt as _;

use super::{
    control::{Control, SignOffReport},
    drain::Drain,
    gate::Gate,
    policy::PolicyAction,
    purge::Purge,
    reply::{JSON, PROBLEM, Refusal, TEXT, json, problem, respond},
    why::Why,
};
use crate::{
    message::{self, BodyError},
    report::{IncompletePurge, IncompleteSignOff, Readiness, SignedOff},
};

/// Bytes of a request body; more are refused with 413.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The media type of [`Control::metrics`].
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "\
holm: the admin API

GET  /healthz   the process responds
GET  /readyz    it may be sent requests; 503 with reasons if not
GET  /metrics   OpenMetrics text
POST /purge     {\"url\": \"https://…\"} or {\"prefix\": \"https://…\"} or {\"pattern\": \"https://…*…\"} or
                {\"key\": \"<64 hex digits>\"} or {\"tag\": \"…\"};
                \"soft\": true marks stale; \"scope\": \"node\", \"region\" or \"world\" says for which nodes
POST /why       {\"url\": \"https://…\", \"method\": \"GET\", \"headers\": [[\"name\", \"value\"]], \"body\": \"…\"}: what would be
                done with it, and why
GET  /nodes     the region's nodes, their states, configurations and policies
POST /drain     {}, {\"region\": true} or {\"region\": \"NAME\"}: the node, or each of its or another region, isn't
                ready from now on, and stops after `timeouts.drain_delay_ms`; \"cancel\": true calls that off
POST /nodes/NAME/sign-off     {}: purges no longer wait for a node of the region that is known to be gone; one of another
                              region is REGION%2FNAME
GET  /pools     endpoints and their health
GET  /batching  how long batches took, by size, beside the fitted cost
GET  /policies  policies, their generations, trials and experiments
GET  /config    the configuration that holds, without secrets
POST /config/reload           {}: its file is read again, and adopted as a whole or refused
POST /policies/NAME/load      {} or {\"file\": \"…\", \"mode\": \"swap|shadow|canary\", \"percent\": 5}
POST /policies/NAME/promote   {}: the generation on trial takes over
POST /policies/NAME/rollback  {} or {\"to\": \"<digest>\"}: the trial ends, or a former generation takes over
";

/// The detail of [`IncompletePurge`].
const INCOMPLETE: &str = "the purge is in the log, but not every node has applied it in time; \
                          those that are missing may serve what it purged until they reach the log again or their \
                          fence expires";

/// The admin API of a node. Clones serve the same node.
#[derive(Clone)]
pub struct Api {
    router: Router,
    gate: Arc<Gate>,
}

impl Api {
    /// Makes the API of the node behind `control`, for the requests that `gate` lets in.
    #[must_use]
    pub fn new(control: Arc<dyn Control>, gate: Gate) -> Self {
        Self { router: router(control), gate: Arc::new(gate) }
    }

    /// Serves one request of the node's own listener.
    pub async fn respond(&self, request: message::Request) -> message::Response {
        let response = match self.gate.check(&request.head) {
            Ok(()) => self.let_in(request).await,
            Err(refusal) => refusal.into_response(),
        };
        response.map(|body| {
            if body.is_end_stream() {
                return message::Body::Empty;
            }
            message::Body::stream(body.map_err(|error| BodyError::Broken(error.to_string())))
        })
    }

    async fn let_in(&self, request: message::Request) -> Response {
        let mut inner = http::Request::new(request.body);
        *inner.method_mut() = request.head.method;
        *inner.uri_mut() = Uri::from(request.head.target);
        *inner.headers_mut() = request.head.headers;
        let Ok(response) = self.router.clone().oneshot(inner).await;
        response
    }
}

fn router(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/", get(|| async { respond(StatusCode::OK, TEXT, INDEX) }))
        .route("/healthz", get(|| async { respond(StatusCode::OK, TEXT, "ok") }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/purge", post(purge))
        .route("/why", post(why))
        .route("/nodes", get(nodes))
        .route("/nodes/{name}/sign-off", post(sign_off))
        .route("/drain", post(drain))
        .route("/pools", get(pools))
        .route("/batching", get(batching))
        .route("/policies", get(policies))
        .route("/policies/{name}/{action}", post(policy))
        .route("/config", get(config))
        .route("/config/reload", post(reload))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(control)
}

type Node = State<Arc<dyn Control>>;

/// The body of a request that changes something. It is refused unless it is JSON by its media type, and not too long.
struct Order(Bytes);

impl<S: Send + Sync> FromRequest<S> for Order {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let detail = "what changes something is a POST with content-type: application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Refusal::new(rejection.status(), format_args!("a body may have at most {BODY_BYTES_MAX} bytes"))
            }
            status => Refusal::new(status, rejection.body_text()),
        })
    }
}

/// The body of a request whose target says all: none, or `{}`. A member would be one that this node doesn't know, and does
/// nothing about.
struct Nothing;

impl<S: Send + Sync> FromRequest<S> for Nothing {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Order(body) = Order::from_request(request, state).await?;
        let is_empty_object = || serde_json::from_slice::<Map<String, Value>>(&body).is_ok_and(|map| map.is_empty());
        if body.is_empty() || is_empty_object() {
            return Ok(Self);
        }
        Err(Refusal::new(StatusCode::BAD_REQUEST, "the body of this request is `{}` or empty: it has no members"))
    }
}

async fn ready(State(node): Node) -> Response {
    match node.ready() {
        Ok(()) => json(StatusCode::OK, JSON, &Readiness { ready: true, reasons: Vec::new() }),
        Err(reasons) => json(StatusCode::SERVICE_UNAVAILABLE, JSON, &Readiness { ready: false, reasons }),
    }
}

async fn metrics(State(node): Node) -> Response {
    respond(StatusCode::OK, OPENMETRICS, node.metrics())
}

async fn pools(State(node): Node) -> Response {
    json(StatusCode::OK, JSON, &node.pools())
}

async fn nodes(State(node): Node) -> Response {
    json(StatusCode::OK, JSON, &node.nodes())
}

async fn drain(State(node): Node, Order(body): Order) -> Result<Response, Refusal> {
    let drained = node.drain(Drain::parse(&body)?).await?;
    Ok(json(StatusCode::OK, JSON, &drained))
}

async fn batching(State(node): Node) -> Response {
    json(StatusCode::OK, JSON, &node.batching())
}

async fn policies(State(node): Node) -> Response {
    json(StatusCode::OK, JSON, &node.policies())
}

async fn policy(
    State(node): Node,
    Path((name, action)): Path<(String, String)>,
    Order(body): Order,
) -> Result<Response, Refusal> {
    let loaded = node.policy(name, PolicyAction::parse(&action, &body)?).await?;
    Ok(json(StatusCode::OK, JSON, &loaded))
}

async fn config(State(node): Node) -> Response {
    json(StatusCode::OK, JSON, &node.config())
}

async fn reload(State(node): Node, _: Nothing) -> Response {
    match node.reload().await {
        Ok(reload) => json(StatusCode::OK, JSON, &reload),
        Err(failure) => {
            let (status, report) = failure.report();
            json(status, PROBLEM, &report)
        }
    }
}

/// Purges. 200 only if no node can serve what was purged any more, so that a script can rely on the status alone.
async fn purge(State(node): Node, Order(body): Order) -> Result<Response, Refusal> {
    let report = node.purge(Purge::parse(&body)?).await?;
    if report.complete {
        return Ok(json(StatusCode::OK, JSON, &report));
    }
    let status = StatusCode::GATEWAY_TIMEOUT;
    Ok(json(status, PROBLEM, &IncompletePurge { problem: problem(status, INCOMPLETE.to_owned()), report }))
}

/// Says what would be done with a request. A POST, since it has a body; it changes nothing.
async fn why(State(node): Node, Order(body): Order) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, JSON, &node.why(Why::parse(&body)?).await))
}

/// Signs a node off. 200 only if nothing is left that purges would wait for.
async fn sign_off(State(node): Node, Path(name): Path<String>, _: Nothing) -> Result<Response, Refusal> {
    let SignOffReport { signed_off, left } = node.sign_off(name.clone()).await?;
    if left == Some(0) {
        return match signed_off {
            0 => Err(Refusal::new(StatusCode::NOT_FOUND, format_args!("no node of the name {name:?} has signed on"))),
            signed_off => Ok(json(StatusCode::OK, JSON, &SignedOff { node: name, signed_off })),
        };
    }
    let detail = match left {
        Some(left) => format!("there was no time to sign off {left} of the processes of that name: repeat it"),
        None => "the purge log did not say in time which nodes have signed on: repeat it".to_owned(),
    };
    let status = StatusCode::GATEWAY_TIMEOUT;
    let report = IncompleteSignOff { problem: problem(status, detail), node: name, signed_off, left };
    Ok(json(status, PROBLEM, &report))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format_args!("{} does not take {method}; GET / lists what there is", uri.path()),
    )
}

async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format_args!("there is no {}; GET / lists what there is", uri.path()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(JSON)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        pin::Pin,
        task::{Context, Poll},
    };

    use http::{HeaderValue, Version, header::AUTHORIZATION, uri::PathAndQuery};
    use parking_lot::Mutex;
    use serde_json::json;

    use super::{
        super::{
            config::ConfigFailure,
            control::BoxFuture,
            drain::{DrainFailure, Whom},
            gate::Token,
            policy::PolicyFailure,
            purge::{Extent, PurgeFailure, Scope},
        },
        *,
    };
    use crate::{
        clock::Timestamp,
        message::{Body, Client, Near, Request, RequestHead, Scheme},
        report::{
            BatchingInfo, ConfigFinding, ConfigInfo, ConfigReload, DrainInfo, FitInfo, Loaded, NodesInfo, PolicyInfo,
            PoolInfo, PurgeReport, WhyReport,
        },
    };

    /// A node whose results the test sets, and which records the calls.
    struct Node {
        ready: Result<(), Vec<String>>,
        outcome: Result<PurgeReport, PurgeFailure>,
        reloaded: Mutex<Result<(), ConfigFailure>>,
        purged: Mutex<Vec<Purge>>,
    }

    impl Control for Node {
        fn purge(&self, purge: Purge) -> BoxFuture<'_, Result<PurgeReport, PurgeFailure>> {
            self.purged.lock().push(purge);
            Box::pin(async move { self.outcome.clone() })
        }

        fn sign_off(&self, node: String) -> BoxFuture<'_, Result<SignOffReport, PurgeFailure>> {
            let (signed_off, left) = match node.as_str() {
                "gone" | "eu/gone" => (1, Some(0)),
                "half" => (1, Some(2)),
                "unknown" => (0, None),
                _ => (0, Some(0)),
            };
            Box::pin(async move { Ok(SignOffReport { signed_off, left }) })
        }

        fn why(&self, why: Why) -> BoxFuture<'_, WhyReport> {
            let url = why.head.url();
            Box::pin(async move { WhyReport { url, ..WhyReport::default() } })
        }

        fn ready(&self) -> Result<(), Vec<String>> {
            self.ready.clone()
        }

        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }

        fn pools(&self) -> Vec<PoolInfo> {
            vec![PoolInfo { name: "models".to_owned(), waiting: 2, endpoints: Vec::new() }]
        }

        fn batching(&self) -> Vec<BatchingInfo> {
            let fit = Some(FitInfo { fixed_us: 20_000, per_item_ns: 1_000_000 });
            let (points, tenants, models) = (Vec::new(), Vec::new(), Vec::new());
            vec![BatchingInfo { pool: "models".to_owned(), batches: 7, fit, points, slots: 1, tenants, models }]
        }

        fn nodes(&self) -> NodesInfo {
            NodesInfo { shared: false, error: None, nodes: Vec::new() }
        }

        fn drain(&self, drain: Drain) -> BoxFuture<'_, Result<DrainInfo, DrainFailure>> {
            let done = DrainInfo { draining: !drain.cancel, delay_ms: 5, ..DrainInfo::default() };
            let done = match drain.whom {
                Whom::Node => Ok(done),
                Whom::OwnRegion => Err(DrainFailure::Alone),
                Whom::Region(name) => Err(DrainFailure::Unknown(name)),
            };
            Box::pin(async move { done })
        }

        fn policies(&self) -> Vec<PolicyInfo> {
            Vec::new()
        }

        fn policy(&self, name: String, action: PolicyAction) -> BoxFuture<'_, Result<Loaded, PolicyFailure>> {
            Box::pin(async move {
                match action {
                    PolicyAction::Promote => Err(PolicyFailure::Refused("nothing is on trial".to_owned())),
                    action => Ok(Loaded { generation: name, state: format!("{action:?}"), unchanged: false }),
                }
            })
        }

        fn config(&self) -> ConfigInfo {
            let (since, config) = (Timestamp(5), json!({"node": "n"}));
            ConfigInfo { generation: 2, since, file: Some("holm.toml".to_owned()), config }
        }

        fn reload(&self) -> BoxFuture<'_, Result<ConfigReload, ConfigFailure>> {
            let outcome = self.reloaded.lock().clone();
            Box::pin(async move { outcome.map(|()| ConfigReload { generation: 3, changes: Vec::new() }) })
        }
    }

    /// A body that never gets anywhere.
    struct Stalled;

    impl http_body::Body for Stalled {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
            Poll::Ready(Some(Err(BodyError::Stalled { idle_ms: 1 })))
        }
    }

    fn report(missing: &[&str]) -> PurgeReport {
        let missing: Vec<String> = missing.iter().map(|node| (*node).to_owned()).collect();
        let (applied, expired) = (vec!["a".to_owned()], vec!["c".to_owned()]);
        let (scope, position) = ("region".to_owned(), "17".to_owned());
        let complete = missing.is_empty();
        PurgeReport { complete, scope, position, applied, expired, missing, regions: BTreeMap::new() }
    }

    fn node() -> Node {
        Node { ready: Ok(()), outcome: Ok(report(&[])), reloaded: Mutex::new(Ok(())), purged: Mutex::default() }
    }

    fn request(method: Method, target: &'static str, body: impl Into<Body>) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer a-token-of-the-tests"));
        Request {
            head: RequestHead {
                method,
                scheme: Scheme::Http,
                authority: HeaderValue::from_static("127.0.0.1:7070"),
                target: PathAndQuery::from_static(target),
                received: None,
                headers,
                client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
                near: Near::default(),
            },
            body: body.into(),
        }
    }

    fn purging(body: &str) -> Request {
        request(Method::POST, "/purge", body.to_owned())
    }

    struct Answer {
        status: u16,
        headers: HeaderMap,
        text: String,
    }

    impl Answer {
        fn json(&self) -> Value {
            serde_json::from_str(&self.text).unwrap()
        }

        fn content_type(&self) -> &str {
            self.headers[CONTENT_TYPE].to_str().unwrap()
        }
    }

    fn gate() -> Gate {
        Gate::new(Some(Token::parse("a-token-of-the-tests").unwrap()), Vec::new())
    }

    async fn ask(node: &Arc<Node>, request: Request) -> Answer {
        let control: Arc<dyn Control> = Arc::<Node>::clone(node);
        let (parts, body) = Api::new(control, gate()).respond(request).await.into_parts();
        let body = body.collect(1024 * 1024).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    #[tokio::test]
    async fn what_there_is_to_read_can_be_read() {
        let node = Arc::new(node());
        for (target, content_type, expected) in [
            ("/", TEXT, INDEX),
            ("/healthz", TEXT, "ok"),
            ("/readyz", JSON, r#"{"ready":true}"#),
            ("/metrics", OPENMETRICS, "# EOF\n"),
            ("/pools?x=1", JSON, r#"[{"endpoints":[],"name":"models","waiting":2}]"#),
            (
                "/batching",
                JSON,
                concat!(
                    r#"[{"batches":7,"fit":{"fixed_us":20000,"per_item_ns":1000000},"models":[],"points":[],"#,
                    r#""pool":"models","slots":1,"tenants":[]}]"#
                ),
            ),
            ("/nodes", JSON, r#"{"nodes":[],"shared":false}"#),
            ("/policies", JSON, "[]"),
            ("/config", JSON, r#"{"config":{"node":"n"},"file":"holm.toml","generation":2,"since":5}"#),
        ] {
            let response = ask(&node, request(Method::GET, target, Body::Empty)).await;
            assert_eq!((response.status, response.content_type()), (200, content_type), "{target}");
            assert_eq!(response.text, expected, "{target}");
            assert_eq!(response.headers["cache-control"], "no-store", "{target}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_gone_is_signed_off_and_an_unknown_one_is_not() {
        for (target, status) in
            [("/nodes/gone/sign-off", 200), ("/nodes/eu%2Fgone/sign-off", 200), ("/nodes/other/sign-off", 404)]
        {
            let request = request(Method::POST, target, "{}".to_owned());
            assert_eq!(ask(&Arc::new(node()), request).await.status, status, "{target}");
        }
        for (target, signed_off, left) in
            [("/nodes/half/sign-off", 1, json!(2)), ("/nodes/unknown/sign-off", 0, json!(null))]
        {
            let request = request(Method::POST, target, "{}".to_owned());
            let response = ask(&Arc::new(node()), request).await;
            let known = response.json();
            assert_eq!((response.status, known["left"].clone()), (504, left), "{known}");
            assert_eq!(known["signed_off"], json!(signed_off), "{known}");
        }
    }

    #[tokio::test]
    async fn a_drain_is_asked_for_by_json_and_may_be_refused() {
        let node = Arc::new(node());
        let ask = async |body: &str| ask(&node, request(Method::POST, "/drain", body.to_owned())).await;
        for (body, draining) in [("{}", true), (r#"{"cancel":true}"#, false)] {
            let done = ask(body).await;
            assert_eq!(done.status, 200, "{}", done.text);
            assert_eq!(done.json(), json!({"draining": draining, "region": false, "delay_ms": 5}));
        }
        for (body, status) in [
            (r#"{"region":true}"#, 409),
            (r#"{"region":"eu"}"#, 404),
            (r#"{"region":1}"#, 400),
            (r#"{"now":true}"#, 400),
        ] {
            let refused = ask(body).await;
            assert_eq!((refused.status, refused.content_type()), (status, PROBLEM), "{}", refused.text);
        }
    }

    #[tokio::test]
    async fn who_is_not_ready_says_why() {
        let node = Node { ready: Err(vec!["the purge log is behind".to_owned()]), ..node() };
        let response = ask(&Arc::new(node), request(Method::GET, "/readyz", Body::Empty)).await;
        assert_eq!(response.status, 503);
        assert_eq!(response.json(), json!({"ready": false, "reasons": ["the purge log is behind"]}));
    }

    #[tokio::test]
    async fn a_purge_reaches_the_node_and_its_report_the_caller() {
        let node = Arc::new(node());
        let response = ask(&node, purging(r#"{"tag":"news","soft":true}"#)).await;
        assert_eq!(response.status, 200);
        let expected = json!({"complete": true, "scope": "region", "position": "17", "applied": ["a"], "expired": ["c"],
            "missing": []});
        assert_eq!(response.json(), expected);
        assert_eq!(*node.purged.lock(), [Purge { scope: Scope::Tag("news".to_owned()), soft: true, extent: None }]);
    }

    #[tokio::test]
    async fn a_purge_of_the_world_says_which_regions_are_complete() {
        let regions = BTreeMap::from([("eu".to_owned(), true), ("us".to_owned(), false)]);
        let node = Arc::new(Node { outcome: Ok(PurgeReport { regions, ..report(&["us/a"]) }), ..node() });
        let response = ask(&node, purging(r#"{"tag":"news","scope":"world"}"#)).await;
        assert_eq!((response.status, &response.json()["regions"]), (504, &json!({"eu": true, "us": false})));
        assert_eq!(node.purged.lock()[0].extent, Some(Extent::World));
    }

    #[tokio::test]
    async fn a_scope_that_the_node_has_not_is_a_mistake_of_the_request() {
        let failure = PurgeFailure::Scope("allowed is node".to_owned());
        let node = Node { outcome: Err(failure), ..node() };
        let response = ask(&Arc::new(node), purging(r#"{"tag":"news","scope":"world"}"#)).await;
        assert_eq!((response.status, response.content_type()), (400, PROBLEM));
        assert_eq!(response.json()["detail"], "allowed is node");
    }

    #[tokio::test]
    async fn a_question_reaches_the_node_and_what_is_none_is_refused() {
        let node = Arc::new(node());
        let ask = async |body: &str| ask(&node, request(Method::POST, "/why", body.to_owned())).await;
        let response = ask(r#"{"url":"HTTP://A.example:80/%61"}"#).await;
        assert_eq!(
            (response.status, &response.json()["url"]),
            (200, &json!("http://a.example/a")),
            "{}",
            response.text
        );
        let refused = ask(r#"{"url":"/a"}"#).await;
        assert_eq!((refused.status, refused.content_type()), (400, PROBLEM), "{}", refused.text);
    }

    #[tokio::test]
    async fn a_purge_that_not_all_have_applied_is_no_success() {
        let node = Node { outcome: Ok(report(&["b"])), ..node() };
        let response = ask(&Arc::new(node), purging(r#"{"tag":"news"}"#)).await;
        assert_eq!((response.status, response.content_type()), (504, PROBLEM));
        let wanted = json!({"complete": false, "scope": "region", "position": "17", "applied": ["a"], "expired": ["c"],
            "missing": ["b"], "type": "about:blank", "title": "Gateway Timeout", "status": 504, "detail": INCOMPLETE});
        assert_eq!(response.json(), wanted);
        let read: IncompletePurge = serde_json::from_value(wanted).unwrap();
        assert_eq!(read.report, report(&["b"]));
    }

    #[tokio::test]
    async fn a_purge_that_failed_says_why() {
        let failure = PurgeFailure::Failed("the purge log can't be written".to_owned());
        let node = Node { outcome: Err(failure), ..node() };
        let response = ask(&Arc::new(node), purging(r#"{"tag":"news"}"#)).await;
        assert_eq!((response.status, response.content_type()), (503, PROBLEM));
        assert_eq!(response.json()["detail"], "the purge log can't be written");
    }

    #[tokio::test]
    async fn policies_are_changed_by_json_posts() {
        let node = Arc::new(node());
        let post =
            async |target: &'static str, body: &str| ask(&node, request(Method::POST, target, body.to_owned())).await;
        let loaded = post("/policies/p/load", r#"{"mode":"canary"}"#).await;
        assert_eq!((loaded.status, &loaded.json()["generation"]), (200, &json!("p")), "{}", loaded.text);
        for (target, body, status) in [
            ("/policies/p/promote", "", 409),
            ("/policies/p/explode", "{}", 404),
            ("/policies/p/load", "{\"a\":1}", 400),
            ("/policies/p/load", "no", 400),
        ] {
            let response = post(target, body).await;
            assert_eq!((response.status, response.content_type()), (status, PROBLEM), "{target}: {}", response.text);
        }
        let mut unsafe_one = request(Method::POST, "/policies/p/promote", "{}".to_owned());
        unsafe_one.head.headers.remove(CONTENT_TYPE);
        assert_eq!(ask(&node, unsafe_one).await.status, 415);
    }

    #[tokio::test]
    async fn a_configuration_is_adopted_or_refused_with_everything_that_is_wrong() {
        let node = Arc::new(node());
        let reload = async || ask(&node, request(Method::POST, "/config/reload", "{}".to_owned())).await;
        let adopted = reload().await;
        assert_eq!((adopted.status, adopted.json()), (200, json!({"generation": 3, "changes": []})));
        let place = "holm.toml:2:5".to_owned();
        let finding = ConfigFinding { place, message: "`b` is 2".to_owned(), allowed: Some("allowed is 1".to_owned()) };
        let keys = vec!["cache.disk.dir".to_owned()];
        for (failure, status, member, wanted) in [
            (
                ConfigFailure::Invalid(vec![finding]),
                422,
                "findings",
                json!([{"place": "holm.toml:2:5", "message": "`b` is 2", "allowed": "allowed is 1"}]),
            ),
            (ConfigFailure::NeedsRestart(keys), 409, "needs_restart", json!(["cache.disk.dir"])),
            (ConfigFailure::Refused("pool a: no".to_owned()), 409, "detail", json!("pool a: no; nothing has changed")),
            (ConfigFailure::NoFile, 409, "findings", Value::Null),
        ] {
            *node.reloaded.lock() = Err(failure);
            let refused = reload().await;
            assert_eq!((refused.status, refused.content_type()), (status, PROBLEM), "{}", refused.text);
            assert_eq!(refused.json()[member], wanted, "{}", refused.text);
        }
        let mut unsafe_one = request(Method::POST, "/config/reload", "{}".to_owned());
        unsafe_one.head.headers.remove(CONTENT_TYPE);
        assert_eq!(ask(&node, unsafe_one).await.status, 415);
    }

    #[tokio::test]
    async fn where_the_target_says_all_a_body_may_say_nothing() {
        let node = Arc::new(node());
        for target in ["/config/reload", "/nodes/gone/sign-off"] {
            for (body, status) in [
                ("", 200),
                ("{}", 200),
                (" { } ", 200),
                (r#"{"dry_run":true}"#, 400),
                ("[]", 400),
                ("null", 400),
                ("node = \"n\"", 400),
            ] {
                let response = ask(&node, request(Method::POST, target, body.to_owned())).await;
                assert_eq!(response.status, status, "{target} {body:?}: {}", response.text);
                assert!(status == 200 || response.text.contains("`{}` or empty"), "{}", response.text);
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_purge_is_refused_and_nothing_is_purged() {
        let node = Arc::new(node());
        let too_large = format!(r#"{{"tag":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
        for (body, status) in [
            ("", 400),
            ("{}", 400),
            (r#"{"tag":"a","url":"http://a/"}"#, 400),
            (r#"{"tag":"a","prefix":"/"}"#, 400),
            (too_large.as_str(), 413),
        ] {
            let response = ask(&node, purging(body)).await;
            assert_eq!((response.status, response.content_type()), (status, PROBLEM), "{body:.40}");
            assert_eq!(response.json()["status"], status, "{body:.40}");
        }
        assert!(node.purged.lock().is_empty());
    }

    #[tokio::test]
    async fn what_the_gate_refuses_purges_nothing() {
        let node = Arc::new(node());
        let mut without_token = purging(r#"{"tag":"news"}"#);
        without_token.head.headers.remove(AUTHORIZATION);
        let refused = ask(&node, without_token).await;
        assert_eq!((refused.status, refused.content_type()), (401, PROBLEM));
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        let mut rebound = purging(r#"{"tag":"news"}"#);
        rebound.head.authority = HeaderValue::from_static("evil.example:7070");
        let refused = ask(&node, rebound).await;
        assert_eq!((refused.status, refused.content_type()), (421, PROBLEM));
        assert!(node.purged.lock().is_empty());
    }

    #[tokio::test]
    async fn what_a_page_of_another_site_can_send_purges_nothing() {
        let node = Arc::new(node());
        for content_type in
            [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/json")]
        {
            let mut request = purging(r#"{"tag":"news"}"#);
            request.head.headers.remove(CONTENT_TYPE);
            if let Some(content_type) = content_type {
                request.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            assert_eq!(ask(&node, request).await.status, 415, "{content_type:?}");
        }
        assert!(node.purged.lock().is_empty());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_problem_of_the_request() {
        let node = Arc::new(node());
        let response = ask(&node, request(Method::POST, "/purge", Body::stream(Stalled))).await;
        assert_eq!((response.status, response.content_type()), (400, PROBLEM));
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let node = Arc::new(node());
        let unknown = ask(&node, request(Method::GET, "/nothing", Body::Empty)).await;
        assert_eq!((unknown.status, unknown.content_type()), (404, PROBLEM));
        let wrong = ask(&node, request(Method::GET, "/purge", Body::Empty)).await;
        assert_eq!((wrong.status, wrong.content_type()), (405, PROBLEM));
        assert_eq!(wrong.headers["allow"], "POST");
        let preflight = ask(&node, request(Method::OPTIONS, "/purge", Body::Empty)).await;
        assert_eq!(preflight.status, 405, "no page of another site is let through");
        assert!(!preflight.headers.contains_key("access-control-allow-origin"));
    }

    #[tokio::test]
    async fn head_is_get_without_its_body() {
        let response = ask(&Arc::new(node()), request(Method::HEAD, "/healthz", Body::Empty)).await;
        assert_eq!((response.status, response.text.as_str()), (200, ""));
    }
}
