//! A listener whose connections can be broken from the inside, at any byte.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

/// How the rest of one connection goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Switch(Arc<Mutex<Rest>>);

#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    /// How many bytes may yet be written.
    bytes: Option<usize>,
    /// How long each byte takes.
    every: Option<Duration>,
}

impl Switch {
    /// Resets the connection after so many more bytes.
    pub(super) fn cut(&self, bytes: usize) {
        self.change(|rest| rest.bytes = Some(bytes));
    }

    /// Lets one byte through at a time.
    pub(super) fn trickle(&self, every: Duration) {
        self.change(|rest| rest.every = Some(every));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Rest) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Sockets(pub(super) TcpListener);

impl Listener for Sockets {
    type Io = Socket;
    type Addr = Switch;

    async fn accept(&mut self) -> (Socket, Switch) {
        loop {
            match self.0.accept().await {
                Ok((tcp, _)) => {
                    // Only speed depends on it.
                    tcp.set_nodelay(true).ok();
                    let switch = Switch::default();
                    return (Socket { tcp, switch: switch.clone(), pause: None }, switch);
                }
                // Too many open files, at the worst: others may be closed meanwhile.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Switch> {
        Ok(Switch::default())
    }
}

impl Connected<IncomingStream<'_, Sockets>> for Switch {
    fn connect_info(stream: IncomingStream<'_, Sockets>) -> Self {
        stream.remote_addr().clone()
    }
}

pub(super) struct Socket {
    tcp: TcpStream,
    switch: Switch,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let rest = this.switch.change(|rest| *rest);
        if rest.bytes == Some(0) {
            // A close that sends RST, not FIN.
            this.tcp.set_zero_linger()?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut most = bytes.len().min(rest.bytes.unwrap_or(usize::MAX));
        if let Some(every) = rest.every {
            most = most.min(1);
            let pause = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let written = ready!(Pin::new(&mut this.tcp).poll_write(cx, &bytes[..most]))?;
        this.switch.change(|rest| rest.bytes = rest.bytes.map(|bytes| bytes - written));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
