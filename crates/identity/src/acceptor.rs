use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use crate::MtlsStream;
use crate::handshake::{self, HandshakeError};

/// How much of the server handshakes may take.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// How many may run at once. One more, and the oldest is dropped in its favour: a flood of half-open
    /// connections ends its own, while an honest handshake of a few milliseconds gets through.
    pub concurrent: NonZeroUsize,
    /// How long each may take.
    pub timeout: Duration,
}

impl Default for HandshakeLimits {
    /// 256 at once, 5 seconds each.
    fn default() -> Self {
        Self { concurrent: NonZeroUsize::new(256).expect("256 is not zero"), timeout: Duration::from_secs(5) }
    }
}

impl HandshakeLimits {
    /// The share of one of so many runtimes: not so few that strangers could crowd honest ones out.
    #[must_use]
    pub fn divided_by(self, runtimes: usize) -> Self {
        let share = (self.concurrent.get() / runtimes.max(1)).max(self.concurrent.get().min(LEAST));
        Self { concurrent: NonZeroUsize::new(share).unwrap_or(self.concurrent), ..self }
    }
}

/// How many handshakes a runtime sees to at once at least, if that many are allowed at all.
const LEAST: usize = 64;

/// How many connections wait for one runtime to take them.
const BACKLOG: usize = 256;

/// Accepts connections, and deals them out in turn to so many runtimes, each of which passes its share to
/// [`incoming`]. Stops listening when all shares are dropped. Must be called within a tokio runtime.
pub fn accept(listener: TcpListener, runtimes: usize) -> Vec<Accepted> {
    let (senders, shares): (Vec<_>, Vec<_>) = (0..runtimes).map(|_| mpsc::channel(BACKLOG)).unzip();
    tokio::spawn(deal_out(listener, senders));
    shares.into_iter().map(Accepted).collect()
}

/// A share of the connections that were accepted, before any handshake.
#[derive(Debug)]
pub struct Accepted(mpsc::Receiver<(std::net::TcpStream, SocketAddr)>);

async fn deal_out(listener: TcpListener, mut runtimes: Vec<mpsc::Sender<(std::net::TcpStream, SocketAddr)>>) {
    let mut failures = 0;
    while !runtimes.is_empty() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = runtimes[0].closed() => {
                runtimes.remove(0);
                continue;
            }
        };
        // A socket belongs to the runtime that opened it, until it is taken out.
        match accepted.and_then(|(socket, address)| Ok((socket.into_std()?, address))) {
            Ok(mut accepted) => {
                failures = 0;
                for _ in 0..runtimes.len() {
                    runtimes.rotate_left(1);
                    match runtimes[0].try_send(accepted) {
                        Ok(()) => break,
                        // It has too many to look at already, or has gone: the next one, or nobody.
                        Err(TrySendError::Full(back) | TrySendError::Closed(back)) => accepted = back,
                    }
                }
            }
            Err(error) => {
                if let Some(pause) = pause_after(&error, failures) {
                    failures += 1;
                    tracing::warn!(error = %error, pause = ?pause, "cannot accept connections");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Yields the connections whose peer has proved who it is, for tonic's `serve_with_incoming_shutdown`.
///
/// Each handshake runs in a task of its own, so that a slow one delays nobody. A failed one is logged and
/// never reaches the stream. Must be called within the runtime that serves the connections.
pub fn incoming(accepted: Accepted, config: Arc<ServerConfig>, limits: HandshakeLimits) -> Incoming {
    let (sender, receiver) = mpsc::channel(limits.concurrent.get());
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(config),
        limits,
        sender,
        tasks: JoinSet::new(),
        order: VecDeque::new(),
    };
    let task = tokio::spawn(acceptor.run(accepted)).abort_handle();
    Incoming { accepted: ReceiverStream::new(receiver), task }
}

/// The connections of workloads. See [`incoming`].
#[derive(Debug)]
pub struct Incoming {
    accepted: ReceiverStream<io::Result<MtlsStream>>,
    task: AbortHandle,
}

impl Stream for Incoming {
    type Item = io::Result<MtlsStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.accepted).poll_next(cx)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Acceptor {
    tls: TlsAcceptor,
    limits: HandshakeLimits,
    sender: mpsc::Sender<io::Result<MtlsStream>>,
    tasks: JoinSet<()>,
    /// The handshakes, oldest first; some may be over.
    order: VecDeque<AbortHandle>,
}

impl Acceptor {
    async fn run(mut self, mut accepted: Accepted) {
        while let Some((socket, address)) = accepted.0.recv().await {
            match TcpStream::from_std(socket) {
                Ok(socket) => {
                    self.make_room();
                    self.start(socket, address);
                    // It begins before the next one can crowd it out.
                    tokio::task::yield_now().await;
                }
                Err(error) => tracing::warn!(error = %error, "a connection cannot be taken over"),
            }
        }
    }

    /// Forgets the handshakes that are over; if all places are still taken, drops the oldest.
    fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        if self.order.len() >= self.limits.concurrent.get() {
            self.order.retain(|handshake| !handshake.is_finished());
        }
        if self.order.len() >= self.limits.concurrent.get()
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
            tracing::debug!(reason = "crowded_out", "handshake dropped");
        }
    }

    fn start(&mut self, socket: TcpStream, address: SocketAddr) {
        let (tls, timeout, sender) = (self.tls.clone(), self.limits.timeout, self.sender.clone());
        self.order.push_back(self.tasks.spawn(async move {
            let handshake = handshake::accept(&tls, socket, address);
            let outcome = tokio::time::timeout(timeout, handshake).await;
            match outcome.unwrap_or(Err(HandshakeError::TimedOut)) {
                // Fails only when the server no longer listens.
                Ok(stream) => drop(sender.send(Ok(stream)).await),
                Err(error) => error.log(address),
            }
        }));
    }
}

/// How long to wait before the next accept: not at all after a fault of that one connection; ever longer,
/// up to a second, when the machine itself is short of something, such as file descriptors.
fn pause_after(error: &io::Error, failures: u32) -> Option<Duration> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted => None,
        _ => Some(Duration::from_millis(10 << failures.min(6)).min(Duration::from_secs(1))),
    }
}

#[cfg(test)]
mod tests;
