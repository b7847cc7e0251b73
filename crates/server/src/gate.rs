//! The gate in front of every RPC. A call gets through if its method is in the table, its workload in the policy,
//! its certificate in its time and one of its roles in the method's row. Everything else is refused here, but for the
//! role where the method's row leaves that to the handler, which records it; no handler gets such a call unasked.
//!
//! The gate also bounds the call's time, writes its log line, counts it, and sees to it that every error has a
//! reason, also those that the gRPC library makes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::{HeaderMap, Request, Response};
use keyholder_domain::{Clock, Reason};
use keyholder_identity::{Policy, peer_of};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::call::Call;
use crate::methods::Method;
use crate::metrics::Metrics;
use crate::problem::{Problem, code};

/// How long a stream may take to begin: the caller must have sent its request by then.
const STREAM_BEGINS: Duration = Duration::from_secs(10);

/// How much of a caller's deadline is held back, so that the answer "too late" still arrives in time.
const HELD_BACK: Duration = Duration::from_millis(20);

/// Puts the gate in front of a service.
#[derive(Debug, Clone)]
pub struct GateLayer {
    /// Which workload may do what.
    pub policy: Arc<Policy>,
    /// The clock that certificates are held against.
    pub clock: Arc<dyn Clock>,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, settings: self.clone() }
    }
}

/// The gate.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    inner: S,
    settings: GateLayer,
}

type Answer<E> = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Error> {
        let started = Instant::now();
        let metrics = Arc::clone(&self.settings.metrics);
        let (method, call) = match self.settings.admit(&request) {
            Ok(admitted) => admitted,
            Err(reason) => {
                let workload = peer_of(request.extensions()).map(|peer| peer.workload().to_string());
                tracing::info!(
                    workload,
                    method = shown_path(request.uri().path()),
                    code = code_name(code(reason)),
                    reason = reason.as_str(),
                    "call refused at the gate"
                );
                let label = Method::find(request.uri().path()).map_or("unknown", |method| method.path);
                metrics.refused(label, code(reason), reason);
                return Box::pin(async move { Ok(Problem::new(reason).into_status().into_http()) });
            }
        };
        let allowed = allowed_time(method, request.headers());
        let compressed =
            request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
        request.extensions_mut().insert(call.clone());
        let replacement = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, replacement);
        Box::pin(async move {
            let answer = tokio::time::timeout(allowed, async move { inner.call(request).await });
            let response = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(Ok(response)) => response?,
                Ok(Err(_)) => call.fail(Problem::new(Reason::DeadlineExceeded)).into_http(),
                Err(_) => {
                    tracing::error!(method = method.path, "a call panicked");
                    call.fail(Problem::new(Reason::Internal)).into_http()
                }
            };
            let (response, code) = with_reason(response, &call, compressed);
            let took = started.elapsed();
            log(method, &call, code, took);
            metrics.called(method.path, code, call.facts().reason.get().copied(), took);
            Ok(response)
        })
    }
}

impl GateLayer {
    fn admit(&self, request: &Request<Body>) -> Result<(&'static Method, Call), Reason> {
        let peer = peer_of(request.extensions()).ok_or(Reason::WorkloadUnknown)?;
        if !peer.is_valid_at(self.clock.now()) {
            return Err(Reason::CertificateExpired);
        }
        let workload = self.policy.find(peer.workload()).ok_or(Reason::WorkloadUnknown)?;
        let method = Method::find(request.uri().path()).ok_or(Reason::MethodUnknown)?;
        let has_role = method.roles.is_empty() || method.roles.iter().any(|role| workload.has_role(*role));
        if !has_role && !method.in_audit {
            return Err(Reason::RoleMissing);
        }
        let allowed = allowed_time(method, request.headers());
        Ok((method, Call::new(Arc::clone(peer), Arc::clone(&self.policy), has_role, allowed)))
    }
}

/// How long a call may take: what its method allows or, if that is less, what the caller waits for, with a slice
/// held back.
fn allowed_time(method: &Method, headers: &HeaderMap) -> Duration {
    let Some(limit) = method.deadline else { return STREAM_BEGINS };
    let asked = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
    asked.map_or(limit, |asked| limit.min(asked.saturating_sub(HELD_BACK.min(asked / 5))))
}

/// Reads a `grpc-timeout` header: up to 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Gives an error that came without details a reason. Such errors are the gRPC library's: a message that does not
/// decode or is too large. Its text is not passed on, but for the path of the field.
fn with_reason(response: Response<Body>, call: &Call, compressed: bool) -> (Response<Body>, Code) {
    let Some(status) = Status::from_header_map(response.headers()) else { return (response, Code::Ok) };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return (response, status.code());
    }
    let problem = match status.code() {
        // Whoever may not call learns nothing about the form of the call.
        _ if !call.has_role() => Problem::new(Reason::RoleMissing),
        Code::OutOfRange => Problem::new(Reason::RequestTooLarge),
        Code::Internal | Code::InvalidArgument => match malformed_field(status.message()) {
            Some(field) => Problem::malformed(field),
            None => Problem::new(Reason::RequestMalformed),
        },
        Code::Unimplemented if compressed => Problem::new(Reason::EncodingNotSupported),
        Code::Unimplemented => Problem::new(Reason::MethodUnknown),
        Code::DeadlineExceeded | Code::Cancelled => Problem::new(Reason::DeadlineExceeded),
        // The health service's own answers, such as NOT_FOUND for a service it does not know.
        other => return (response, other),
    };
    let status = call.fail(problem);
    let code = status.code();
    (status.into_http(), code)
}

/// The path of the field that did not decode, out of prost's `… Account.id: CreateConnectionRequest.account: invalid
/// string …`, where the innermost comes first.
fn malformed_field(message: &str) -> Option<String> {
    let (_, place) = message.split_once("failed to decode Protobuf message: ")?;
    let mut inner = None;
    let mut path = Vec::new();
    for (message, field) in place.split(": ").map_while(|part| part.split_once('.')) {
        if is_word(message) && is_word(field) {
            path.push(if field == "target" { target_field(inner) } else { field });
            inner = Some(message);
        }
    }
    path.reverse();
    (!path.is_empty()).then(|| path.join("."))
}

/// The field that stands in a `target`, which prost calls by the name of the oneof: known by the message inside.
fn target_field(inner: Option<&str>) -> &'static str {
    match inner {
        Some("GrantSelector") => "selector",
        Some("ProviderTarget") => "provider",
        _ => "connection_id",
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A path that nobody promised to be short or printable.
fn shown_path(path: &str) -> String {
    path.chars().take(120).flat_map(char::escape_default).collect()
}

/// The name of a code, as it is in logs.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn log(method: &Method, call: &Call, code: Code, took: Duration) {
    macro_rules! line {
        ($level:ident) => {{
            let facts = call.facts();
            tracing::$level!(
                method = method.path,
                workload = %call.peer().workload(),
                request_id = facts.request_id.get().map(|id| id.as_str()),
                organization_id = facts.organization_id.get().map(tracing::field::display),
                actor = facts.actor.get().map(tracing::field::display),
                provider_id = facts.provider_id.get().map(tracing::field::display),
                connection_id = facts.connection_id.get().map(tracing::field::display),
                grant_id = facts.grant_id.get().map(tracing::field::display),
                code = code_name(code),
                reason = facts.reason.get().map(|reason| reason.as_str()),
                latency_ms = (took.as_secs_f64() * 1e6).round() / 1e3,
                "call"
            )
        }};
    }
    // The audit has said it already, and the line would be a tenth of what the call costs.
    if method.in_audit && code == Code::Ok { line!(debug) } else { line!(info) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_callers_deadline() {
        assert_eq!(grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for text in ["", "S", "1", "-1S", "123456789S", "1x", "1é"] {
            assert_eq!(grpc_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn a_callers_deadline_is_cut_short_and_never_lengthens_the_methods() {
        let method =
            Method { path: "", roles: &[], deadline: Some(Duration::from_secs(10)), in_audit: false };
        let with = |timeout: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", timeout.parse().unwrap());
            allowed_time(&method, &headers)
        };
        assert_eq!(with("1S"), Duration::from_millis(980));
        assert_eq!(with("10m"), Duration::from_millis(8));
        assert_eq!(with("1H"), Duration::from_secs(10));
    }

    #[test]
    fn the_path_of_a_field_that_does_not_decode_is_told_and_nothing_else() {
        let message = "failed to decode Protobuf message: Account.id: CreateConnectionRequest.account: invalid string \
                       value: data is not UTF-8 encoded";
        assert_eq!(malformed_field(message).as_deref(), Some("account.id"));
        assert_eq!(malformed_field("failed to decode Protobuf message: invalid varint"), None);
    }
}
