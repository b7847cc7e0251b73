use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use zeroize::Zeroizing;

use crate::{EgressError, Target};

/// A request to a target.
///
/// It counts as carrying a secret, unless [`Self::without_secret`] says otherwise: then a redirect is refused
/// by type rather than returned. Its `Debug` prints the method and the origin, and nothing else. A secret
/// that is handed over is zeroed when the request is done with; what the TLS and HTTP libraries copied is not.
pub struct Request {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) secret: bool,
    pub(crate) patient: bool,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, target: Target) -> Self {
        Self { method, target, headers: HeaderMap::new(), body: Bytes::new(), secret: true, patient: false }
    }

    /// The same request with another method.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a header that is no secret.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Adds a header that is a secret, such as `Authorization`.
    ///
    /// # Errors
    /// [`EgressError::Request`] if the value has a character that no header may have.
    pub fn secret_header(mut self, name: HeaderName, value: Zeroizing<Vec<u8>>) -> Result<Self, EgressError> {
        let mut value =
            HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| EgressError::Request)?;
        value.set_sensitive(true);
        self.headers.append(name, value);
        Ok(self)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: Zeroizing<Vec<u8>>) -> Self {
        self.body = Bytes::from_owner(body);
        self
    }

    /// Declares that the request carries no secret: a redirect is then an answer like any other. It is still
    /// not followed.
    #[must_use]
    pub fn without_secret(mut self) -> Self {
        self.secret = false;
        self
    }

    /// Gives the server as long to begin its answer as the whole call may take: for what it does all the same if nobody
    /// waits, such as replacing a token.
    #[must_use]
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Holds the request to what is a caller's to set: not the framing, not the connection, not the host.
    pub(crate) fn judge(&self) -> Result<(), EgressError> {
        let reserved = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::ACCEPT_ENCODING,
            header::CONNECTION,
            header::UPGRADE,
            header::EXPECT,
            header::TE,
            header::TRAILER,
            header::PROXY_AUTHORIZATION,
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
        ];
        let method = !matches!(self.method, Method::CONNECT | Method::TRACE);
        let headers = !reserved.iter().any(|name| self.headers.contains_key(name));
        (method && headers).then_some(()).ok_or(EgressError::Request)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {}, …)", self.method, self.target.origin())
    }
}

/// An answer, complete and within its limits. Its `Debug` prints the status and nothing else.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers; they can hold secrets.
    pub headers: HeaderMap,
    /// The body, as it came: nothing was unpacked.
    pub body: Body,
}

/// The bytes of an answer, which can hold secrets. Zeroed on drop; its `Debug` prints nothing of them.
#[derive(Default)]
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, …)", self.status.as_u16())
    }
}
