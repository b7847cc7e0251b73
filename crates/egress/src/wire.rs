//! One HTTP/1.1 connection. It is driven by whoever uses it: there is no task behind it that could outlive a
//! call, and dropping it closes it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::EgressError;
use crate::dial::Stream;

/// The largest head of an answer, in bytes; also of all chunk extensions and of all trailers.
const MAX_HEAD: usize = 64 * 1024;

/// The most headers of an answer.
const MAX_HEADERS: usize = 100;

/// The most interim answers (1xx) before the one that counts.
const MAX_INTERIM: usize = 16;

pub(crate) type HttpRequest = http::Request<Full<Bytes>>;

type Driver = Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// Why a request had no answer.
pub(crate) enum NoAnswer {
    /// The connection was closed before anything was written: the request is as good as new.
    Unsent(Box<HttpRequest>),
    /// Anything else.
    Failed(EgressError),
}

/// A connection, and to whom.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    /// Nothing once it has ended.
    connection: Option<Pin<Box<Driver>>>,
    pub(crate) peer: SocketAddr,
    /// When it was last used.
    pub(crate) used: Instant,
}

impl Wire {
    pub(crate) async fn new(stream: Box<dyn Stream>, peer: SocketAddr) -> Result<Self, EgressError> {
        let handshake = Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|_| EgressError::ConnectionLost)?;
        Ok(Self { sender, connection: Some(Box::pin(connection)), peer, used: Instant::now() })
    }

    /// Whether the connection can take a request now. Notices if the host has closed it meanwhile.
    pub(crate) async fn is_ready(&mut self) -> bool {
        std::future::poll_fn(|context| {
            self.poll_connection(context);
            Poll::Ready(())
        })
        .await;
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        mut request: HttpRequest,
    ) -> Result<http::Response<Incoming>, NoAnswer> {
        let interim = Arc::new(AtomicUsize::new(0));
        let counter = interim.clone();
        hyper::ext::on_informational(&mut request, move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut answer = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        std::future::poll_fn(|context| {
            poll_connection(connection, context);
            if interim.load(Ordering::Relaxed) > MAX_INTERIM {
                return Poll::Ready(Err(NoAnswer::Failed(EgressError::HeadersTooLarge)));
            }
            answer.as_mut().poll(context).map_err(|mut fault| match fault.take_message() {
                Some(request) => NoAnswer::Unsent(Box::new(request)),
                None => NoAnswer::Failed(classify(fault.error())),
            })
        })
        .await
    }

    /// Reads a body to its end, or to the limit.
    pub(crate) async fn read(
        &mut self,
        mut body: Incoming,
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, EgressError> {
        let mut bytes = Zeroizing::new(Vec::new());
        loop {
            let mut frame = pin!(body.frame());
            let next = std::future::poll_fn(|context| {
                self.poll_connection(context);
                frame.as_mut().poll(context)
            });
            let Some(frame) = next.await else { return Ok(bytes) };
            let Ok(data) = frame.map_err(|error| classify(&error))?.into_data() else { continue };
            if data.len() > limit - bytes.len() {
                return Err(EgressError::BodyTooLarge);
            }
            append(&mut bytes, &data, limit);
        }
    }

    fn poll_connection(&mut self, context: &mut Context<'_>) {
        poll_connection(&mut self.connection, context);
    }
}

/// Lets a connection do what it can. How it ended is told to whoever waits for an answer or a body.
fn poll_connection(connection: &mut Option<Pin<Box<Driver>>>, context: &mut Context<'_>) {
    if let Some(running) = connection
        && running.as_mut().poll(context).is_ready()
    {
        *connection = None;
    }
}

/// Grows in steps of its own, so that no outgrown copy is left behind unzeroed.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: &[u8], limit: usize) {
    let needed = bytes.len() + data.len();
    if needed > bytes.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity((needed * 2).max(1024).min(limit.max(needed))));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(data);
}

/// What a fault of the connection means. By type along the chain, never by text.
fn classify(error: &hyper::Error) -> EgressError {
    if error.is_parse_too_large() {
        return EgressError::HeadersTooLarge;
    }
    if error.is_parse() {
        return EgressError::NotHttp;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => return EgressError::NotHttp,
            _ => source = cause.source(),
        }
    }
    EgressError::ConnectionLost
}
