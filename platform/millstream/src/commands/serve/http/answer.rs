//! What is answered over HTTP: JSON, one object and a line's end; and the metrics.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue},
    http::uri::Authority,
};
use millstream_broker::Readiness;
use serde_json::{Value, json};

use super::{Site, metrics};
use crate::{failure::explain, log_filter};

/// Of a request's body, bytes.
const BODY_BYTES_MAX: usize = 4 << 10;

type Answer = Response<Full<Bytes>>;

/// Something that can be asked for.
struct Path {
    path: &'static str,
    /// As in `Allow`.
    methods: &'static str,
    what: &'static str,
}

/// All that can be asked for. HEAD is GET without the body, which hyper sees to.
const PATHS: [Path; 5] = [
    Path { path: "/", methods: "GET, HEAD", what: "this list" },
    Path {
        path: "/health",
        methods: "GET, HEAD",
        what: "200 as long as the process serves: if there is no answer, restart it",
    },
    Path {
        path: "/ready",
        methods: "GET, HEAD",
        what: "200 while records are taken; 503 with the reason while the broker starts or stops, its disk is full, or it has failed",
    },
    Path {
        path: "/metrics",
        methods: "GET, HEAD",
        what: "the broker in numbers, in Prometheus' text format; METRICS.md says what each means",
    },
    Path {
        path: "/log-level",
        methods: "GET, HEAD, PUT",
        what: "what is logged; PUT: log this from now on, such as info,millstream_log=debug",
    },
];

/// Answers one request, whatever it is.
pub(super) async fn answer<B>(site: &Site, request: Request<B>) -> Result<Answer, Infallible>
where
    B: Body<Data: Send> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(known) = PATHS.iter().find(|known| known.path == request.uri().path()) else {
        return Ok(refuse(StatusCode::NOT_FOUND, "there is nothing here; / lists what there is"));
    };
    if site.is_local.get() != Some(&false) && !is_for_this_machine(&request) {
        return Ok(refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "this is served to this machine: ask localhost or its address",
        ));
    }
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    Ok(match (known.path, method) {
        ("/", Method::GET) => list(),
        ("/health", Method::GET) => {
            json(StatusCode::OK, &json!({"status": "serving", "version": env!("CARGO_PKG_VERSION")}))
        }
        ("/ready", Method::GET) => ready(site),
        ("/metrics", Method::GET) => scrape(site).await,
        ("/log-level", Method::GET) => log_level(site),
        ("/log-level", Method::PUT) => change_log_level(site, request.into_body()).await,
        _ => {
            let mut refused =
                refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("only {} can be done here", known.methods));
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static(known.methods));
            refused
        }
    })
}

/// Whether the name that was asked for is this machine's, if there is one. A browser here that is shown a page of somebody else's, whose
/// name is said to be 127.0.0.1, would hand our answers to that page, and our settings into its hands.
fn is_for_this_machine<B>(request: &Request<B>) -> bool {
    let named = request.headers().get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let named = named.chain(request.uri().authority().map(|authority| Some(authority.clone())));
    named.into_iter().all(|authority| {
        authority.is_some_and(|authority| {
            let host = authority.host();
            let ip = host.trim_start_matches('[').trim_end_matches(']');
            host.eq_ignore_ascii_case("localhost") || ip.parse::<std::net::IpAddr>().is_ok()
        })
    })
}

fn list() -> Answer {
    let paths =
        PATHS.iter().map(|Path { path, methods, what }| json!({"path": path, "methods": methods, "what": what}));
    json(StatusCode::OK, &json!({"millstream": env!("CARGO_PKG_VERSION"), "paths": paths.collect::<Vec<_>>()}))
}

fn ready(site: &Site) -> Answer {
    let unready = |reason: &str| json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reason": reason}));
    let Some((broker, _)) = site.broker.get() else { return unready("the broker is starting") };
    match broker.readiness() {
        Ok(Readiness { partitions_led, partitions_out_of_service }) => json(
            StatusCode::OK,
            &json!({
                "ready": true,
                "partitions_led": partitions_led,
                "partitions_out_of_service": partitions_out_of_service,
            }),
        ),
        Err(reason) => unready(&explain(&reason)),
    }
}

/// Looks at each log: on a thread of its own, and for one at a time, so that whoever asks again and again takes no more than that from
/// those who send records.
async fn scrape(site: &Site) -> Answer {
    let turn = site.scraping.clone().lock_owned().await;
    let serving = site.broker.get().cloned();
    let work = move || {
        // Held to the end, also where nobody waits for it any more.
        let _turn = turn;
        metrics::now(serving.as_ref().map(|(broker, credentials)| (&**broker, credentials.not_after())))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(text) => answer_with(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "they could not be gathered; the broker's log says why"),
    }
}

fn log_level(site: &Site) -> Answer {
    json(StatusCode::OK, &json!({"filter": site.log.now(), "at_start": site.log.at_start()}))
}

async fn change_log_level<B>(site: &Site, body: B) -> Answer
where
    B: Body<Data: Send> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = match Box::pin(Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let told = format!("at most {BODY_BYTES_MAX} bytes are taken");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, &told);
        }
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &explain(error.as_ref())),
    };
    let changed = std::str::from_utf8(&body).map_err(|error| error.to_string()).and_then(|text| site.log.change(text));
    match changed {
        Ok(()) => log_level(site),
        Err(reason) => refuse(StatusCode::BAD_REQUEST, &format!("{reason}; expected {}", log_filter::ACCEPTED)),
    }
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    json(status, &json!({"error": reason}))
}

fn json(status: StatusCode, body: &Value) -> Answer {
    answer_with(status, "application/json", format!("{body}\n"))
}

fn answer_with(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What is asked for is how things are now.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
