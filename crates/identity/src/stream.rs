use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::Peer;
use crate::corked::Corked;

/// One open connection of a workload.
#[derive(Debug)]
pub struct MtlsStream {
    inner: TlsStream<Corked<TcpStream>>,
    peer: Arc<Peer>,
}

impl MtlsStream {
    pub(crate) const fn new(inner: TlsStream<Corked<TcpStream>>, peer: Arc<Peer>) -> Self {
        Self { inner, peer }
    }

    /// From now on, what its task writes in one go leaves with one system call, and not before the task reads: a flush alone
    /// sends nothing. For tonic, which reads whenever it is polled.
    #[must_use]
    pub fn corked(mut self) -> Self {
        self.inner.get_mut().0.cork();
        self
    }

    /// The workload on its other end.
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

impl Connected for MtlsStream {
    /// One pointer: tonic clones it into every request.
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for MtlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for MtlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
