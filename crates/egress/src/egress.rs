use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use crate::dial::Dialer;
use crate::pool::{Call, Pool};
use crate::resolve::Resolver;
use crate::vet::{self, Unvetted, Verdict, Vetted};
use crate::wire::{HttpRequest, NoAnswer, Wire};
use crate::{
    Body, Deadlines, EgressError, Limits, Refusal, Request, Response, Rules, Settings, SettingsError, Target,
};

/// Sent unless the caller names itself: some providers turn away who does not.
const USER_AGENT: &str = concat!("keyholder/", env!("CARGO_PKG_VERSION"));

/// The way out. Cheap to clone.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    rules: Rules,
    resolver: Resolver,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Arc<Pool>,
    deadlines: Deadlines,
    limits: Limits,
}

impl Egress {
    /// Sets the way out up. Warns in the log of every `[danger]` entry, and of every range that is opened.
    ///
    /// # Errors
    /// Settings that cannot work: see [`SettingsError`].
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        judge_amounts(settings)?;
        warn_of(settings);
        Ok(Self { inner: Arc::new(Inner::new(settings)?) })
    }

    /// The rules that need no lookup, for whoever parses a [`Target`].
    pub fn rules(&self) -> &Rules {
        &self.inner.rules
    }

    /// Says whether a URL may be called and where its host is, without calling it.
    pub async fn judge(&self, url: &str) -> Verdict {
        match Target::parse(url, &self.inner.rules) {
            Ok(target) => vet::examine(&self.inner.rules, &self.inner.resolver, &target).await,
            Err(refusal) => Verdict::refused(refusal),
        }
    }

    /// Sends a request, and reads its answer to the end.
    ///
    /// The host is looked up and judged anew, the socket is connected to an address that passed, and no
    /// redirect is followed. A failure is logged, with the host and the reason.
    ///
    /// # Errors
    /// Every status is an answer, but for a redirect of a request with a secret. Else see [`EgressError`].
    pub async fn send(&self, request: Request) -> Result<Response, EgressError> {
        let target = request.target.clone();
        let whole = Box::pin(self.inner.send(request));
        let outcome = timeout(self.inner.deadlines.total, whole).await.unwrap_or(Err(EgressError::TimedOut));
        if let Err(error) = &outcome {
            log(&target, *error);
        }
        outcome
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// For tests: the same settings, with a watch on the sockets.
    #[cfg(test)]
    pub(crate) fn tapped(settings: &Settings, tap: crate::tests::tap::Tap) -> Self {
        let mut inner = Inner::new(settings).unwrap();
        inner.dialer.tap = tap;
        Self { inner: Arc::new(inner) }
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Egress")
    }
}

impl Inner {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            rules: Rules::new(settings)?,
            resolver: Resolver::new(settings)?,
            dialer: Dialer::new(settings)?,
            pool: Pool::new(settings.limits),
            deadlines: settings.deadlines,
            limits: settings.limits,
        })
    }

    async fn send(&self, request: Request) -> Result<Response, EgressError> {
        request.judge()?;
        let (target, secret) = (request.target.clone(), request.secret);
        let begins = if request.patient { self.deadlines.total } else { self.deadlines.first_byte };
        let call = self.pool.enter(&target)?;
        let (mut wire, answer) = self.exchange(&call, &target, prepare(request)?, begins).await?;
        let (head, body) = answer.into_parts();
        judge_status(head.status, secret)?;
        judge_body(&head.headers, &body, self.limits.body_bytes)?;
        let body = wire.read(body, self.limits.body_bytes).await?;
        call.give_back(wire).await;
        Ok(Response { status: head.status, headers: head.headers, body: Body::new(body) })
    }

    /// Sends the request over a connection that waits, or over a new one. If the one that waited turns out to
    /// be closed before anything was written, everything is vetted again.
    async fn exchange(
        &self,
        call: &Call,
        target: &Target,
        mut request: HttpRequest,
        begins: Duration,
    ) -> Result<(Wire, http::Response<Incoming>), EgressError> {
        let vetted = self.vet(target).await?;
        if let Some(mut wire) = call.take(&vetted).await {
            match self.answer(&mut wire, request, begins).await {
                Ok(answer) => return Ok((wire, answer)),
                Err(NoAnswer::Failed(error)) => return Err(error),
                Err(NoAnswer::Unsent(unsent)) => request = *unsent,
            }
            let vetted = self.vet(target).await?;
            return self.exchange_anew(target, &vetted, request, begins).await;
        }
        self.exchange_anew(target, &vetted, request, begins).await
    }

    async fn exchange_anew(
        &self,
        target: &Target,
        vetted: &Vetted,
        request: HttpRequest,
        begins: Duration,
    ) -> Result<(Wire, http::Response<Incoming>), EgressError> {
        let (stream, peer) = self.dialer.dial(target, vetted).await?;
        let mut wire = Wire::new(stream, peer).await?;
        match self.answer(&mut wire, request, begins).await {
            Ok(answer) => Ok((wire, answer)),
            Err(NoAnswer::Failed(error)) => Err(error),
            Err(NoAnswer::Unsent(_)) => Err(EgressError::ConnectionLost),
        }
    }

    async fn vet(&self, target: &Target) -> Result<Vetted, EgressError> {
        vet::vet(&self.rules, &self.resolver, target).await.map_err(|unvetted| match unvetted {
            Unvetted::Refused(refusal) => refusal.into(),
            Unvetted::Unknown(fault) => fault.into(),
        })
    }

    async fn answer(
        &self,
        wire: &mut Wire,
        request: HttpRequest,
        begins: Duration,
    ) -> Result<http::Response<Incoming>, NoAnswer> {
        let late = Err(NoAnswer::Failed(EgressError::FirstByteTimedOut));
        timeout(begins, wire.send(request)).await.unwrap_or(late)
    }
}

// === Settings ===

fn judge_amounts(settings: &Settings) -> Result<(), SettingsError> {
    let Settings { deadlines, limits, .. } = settings;
    let amounts = [
        ("deadlines.total_ms", deadlines.total.is_zero()),
        ("deadlines.resolve_ms", deadlines.resolve.is_zero()),
        ("deadlines.connect_ms", deadlines.connect.is_zero()),
        ("deadlines.first_byte_ms", deadlines.first_byte.is_zero()),
        ("limits.body_bytes", limits.body_bytes == 0),
        ("limits.calls", limits.calls == 0),
        ("limits.calls_per_host", limits.calls_per_host == 0),
    ];
    match amounts.into_iter().find(|(_, zero)| *zero) {
        Some((name, _)) => Err(SettingsError::Zero(name)),
        None => Ok(()),
    }
}

fn warn_of(settings: &Settings) {
    for entry in &settings.danger {
        tracing::warn!(host = %entry, "danger: this host may be called in the clear and on loopback");
    }
    for range in &settings.allow_cidrs {
        tracing::warn!(range = %range, "private range open for outgoing calls");
    }
}

// === Requests and answers ===

fn prepare(request: Request) -> Result<HttpRequest, EgressError> {
    let Request { method, target, headers, body, .. } = request;
    let path = PathAndQuery::try_from(target.path_and_query()).map_err(|_| Refusal::Path)?;
    let host = HeaderValue::try_from(target.authority()).map_err(|_| Refusal::HostName)?;
    let mut prepared = http::Request::new(Full::<Bytes>::new(body));
    *prepared.method_mut() = method;
    *prepared.uri_mut() = Uri::from(path);
    *prepared.headers_mut() = headers;
    prepared.headers_mut().insert(header::HOST, host);
    prepared.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    prepared.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    Ok(prepared)
}

fn judge_status(status: StatusCode, secret: bool) -> Result<(), EgressError> {
    if status.is_informational() {
        return Err(EgressError::NotHttp);
    }
    if secret && status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        return Err(Refusal::Redirect.into());
    }
    Ok(())
}

/// Judges a body by what the headers say about it, before any of it is read.
fn judge_body(headers: &HeaderMap, body: &Incoming, limit: usize) -> Result<(), EgressError> {
    if body.is_end_stream() {
        return Ok(());
    }
    let plain =
        |name, word| headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(word));
    if !plain(header::CONTENT_ENCODING, b"identity") || !plain(header::TRANSFER_ENCODING, b"chunked") {
        return Err(EgressError::Encoded);
    }
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(EgressError::BodyTooLarge);
    }
    Ok(())
}

/// One line, with what is safe to see: never the path, the query, a header or the body.
fn log(target: &Target, error: EgressError) {
    let (host, reason) = (target.origin(), error.reason());
    match error {
        EgressError::Refused(_) => tracing::warn!(%host, reason, "call refused"),
        _ => tracing::info!(%host, reason, "call failed"),
    }
}
