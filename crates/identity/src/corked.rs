use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes wait to be sent at most: the answers of some thirty calls.
const WAITING: usize = 64 * 1024;

/// A socket that, once it is corked, sends with one system call what its task writes in one go. HTTP/2 flushes behind each
/// answer that is larger than 256 bytes, which would cost as many system calls as there are answers.
///
/// Corked, a flush sends nothing. It has the task polled again, after all others that are ready now, and the read with which
/// that begins sends. Only for a task that, whenever it is polled, reads until there is nothing to read, or waits for room to write, or
/// shuts down: so does `h2::proto::Connection::poll`, through a TLS session that wants to read whenever it has nothing to give.
#[derive(Debug)]
pub(crate) struct Corked<S: AsyncWrite + Unpin> {
    socket: S,
    corked: bool,
    waiting: BytesMut,
    /// Whether anything was written that the task will not be polled for yet.
    unseen: bool,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, corked: false, waiting: BytesMut::new(), unseen: false }
    }

    pub(crate) const fn cork(&mut self) {
        self.corked = true;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
        }
        // A connection that rests holds no room.
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.corked {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        }
        // What was sent of it leaves no room in it, so that it never grows.
        if self.waiting.len() == self.waiting.capacity() {
            ready!(self.poll_send(cx))?;
            self.waiting = BytesMut::with_capacity(WAITING);
        }
        let before = self.waiting.len();
        for buf in bufs {
            let room = self.waiting.capacity() - self.waiting.len();
            self.waiting.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        self.unseen = true;
        Poll::Ready(Ok(self.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.corked {
            return Pin::new(&mut self.socket).poll_flush(cx);
        }
        // Once for what was written: where the socket takes no more, it wakes the task when it does.
        if std::mem::take(&mut self.unseen) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Corked<S> {
    /// Whoever drops a connection without ado has said why in what was written last, an alert for example.
    fn drop(&mut self) {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        // What the socket does not take at once is lost.
        let _ = self.poll_send(&mut nobody);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A socket that counts what reaches it.
    struct Counted {
        inner: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.inner).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One end of a pipe that holds so many bytes, corked; the other end; how often the first was written to; and the task that
    /// it belongs to.
    fn corked(holds: usize) -> (Corked<Counted>, DuplexStream, Arc<AtomicUsize>, Arc<Task>) {
        let (near, far) = duplex(holds);
        let writes = Arc::new(AtomicUsize::new(0));
        let mut corked = Corked::new(Counted { inner: near, writes: Arc::clone(&writes) });
        corked.cork();
        (corked, far, writes, Arc::default())
    }

    fn write(corked: &mut Corked<Counted>, task: &Arc<Task>, bytes: &[u8]) -> Poll<usize> {
        let waker = Waker::from(Arc::clone(task));
        let mut cx = Context::from_waker(&waker);
        let written = Pin::new(&mut *corked).poll_write(&mut cx, bytes).map(Result::unwrap);
        assert!(Pin::new(corked).poll_flush(&mut cx).is_ready());
        written
    }

    fn read(corked: &mut Corked<Counted>, task: &Arc<Task>) -> Poll<io::Result<()>> {
        let waker = Waker::from(Arc::clone(task));
        let mut buffer = [0; 8];
        let mut buffer = ReadBuf::new(&mut buffer);
        Pin::new(corked).poll_read(&mut Context::from_waker(&waker), &mut buffer)
    }

    #[tokio::test]
    async fn what_a_task_writes_and_flushes_in_one_go_leaves_at_once_when_it_is_polled_again() {
        let (mut corked, mut far, writes, task) = corked(1_024);
        for answer in [b"one ", b"two ", b"six "] {
            assert_eq!(write(&mut corked, &task, answer), Poll::Ready(4));
        }
        assert_eq!(writes.load(Ordering::Relaxed), 0);
        assert!(task.0.load(Ordering::Relaxed) >= 1, "nobody would poll the task again");
        assert!(read(&mut corked, &task).is_pending());
        assert_eq!(writes.load(Ordering::Relaxed), 1);
        let mut received = [0; 12];
        far.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"one two six ");
        assert_eq!(corked.waiting.capacity(), 0, "a connection that rests holds room");
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_owed_no_more_than_the_room_and_the_task_sleeps_until_it_does() {
        let (mut corked, mut far, _, task) = corked(10);
        let (mut accepted, block) = (0, vec![7; WAITING / 4]);
        while let Poll::Ready(more) = write(&mut corked, &task, &block) {
            accepted += more;
            assert!(accepted <= 2 * WAITING, "{accepted} bytes");
        }
        assert!(read(&mut corked, &task).is_pending());
        assert_eq!(corked.waiting.len() + 10, accepted);
        let before = task.0.load(Ordering::Relaxed);
        // As HTTP/2 does whenever it is polled.
        let waker = Waker::from(Arc::clone(&task));
        assert!(Pin::new(&mut corked).poll_flush(&mut Context::from_waker(&waker)).is_ready());
        assert!(read(&mut corked, &task).is_pending());
        assert_eq!(task.0.load(Ordering::Relaxed), before, "the task would be polled for ever");
        // What it says meanwhile is heard.
        far.write_all(b"hi").await.unwrap();
        assert!(matches!(read(&mut corked, &task), Poll::Ready(Ok(()))));
        let before = task.0.load(Ordering::Relaxed);
        let mut received = [0; 10];
        far.read_exact(&mut received).await.unwrap();
        assert!(task.0.load(Ordering::Relaxed) > before, "nobody would poll the task again");
        assert!(corked.waiting.capacity() <= WAITING, "it grew");
        let rest = tokio::spawn(async move {
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.map(|_| rest.len())
        });
        corked.shutdown().await.unwrap();
        assert_eq!(10 + rest.await.unwrap().unwrap(), accepted, "lost at the end");
    }

    #[tokio::test]
    async fn a_task_that_cannot_write_is_woken_when_it_can_though_it_neither_flushes_nor_reads() {
        let (mut corked, mut far, _, task) = corked(10);
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        let block = vec![7; WAITING / 4];
        while Pin::new(&mut corked).poll_write(&mut cx, &block).is_ready() {}
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        far.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "nobody would poll the task again");
    }

    #[tokio::test]
    async fn what_was_written_last_leaves_though_the_connection_is_dropped() {
        let (mut corked, mut far, _, task) = corked(1_024);
        assert!(write(&mut corked, &task, b"alert").is_ready());
        drop(corked);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"alert");
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_is_an_error_when_its_answers_are_sent() {
        let (mut corked, far, _, task) = corked(1_024);
        drop(far);
        assert!(write(&mut corked, &task, b"answer").is_ready());
        let Poll::Ready(Err(error)) = read(&mut corked, &task) else { panic!("it was sent") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
