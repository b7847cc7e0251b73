//! A way to Postgres that can go silent: what is connected stays connected and nothing comes back, as after a
//! failover that nobody announced. What connects afterwards gets through.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// The proxy, until it is dropped.
pub(crate) struct FaultProxy {
    dir: TempDir,
    /// Connections of earlier generations are silent.
    generation: Arc<AtomicU64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FaultProxy {
    /// Starts a proxy in front of the server that a URL names by its socket folder.
    pub(crate) fn start(url: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let generation = Arc::new(AtomicU64::new(0));
        let upstream = Path::new(socket_folder(url)).join(".s.PGSQL.5432");
        let accepting = tokio::spawn(accept(listener, upstream, Arc::clone(&generation)));
        Self { dir, generation, accepting }
    }

    /// The URL through the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(socket_folder(url), self.dir.path().to_str().unwrap())
    }

    /// Silences every connection that there is.
    pub(crate) fn silence(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

fn socket_folder(url: &str) -> &str {
    let (_, rest) = url.split_once("host=").unwrap();
    rest.split('&').next().unwrap()
}

async fn accept(listener: UnixListener, upstream: PathBuf, generation: Arc<AtomicU64>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = UnixStream::connect(&upstream).await else { continue };
        let born = generation.load(Ordering::SeqCst);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(pump(from_client, to_server, born, Arc::clone(&generation)));
        tokio::spawn(pump(from_server, to_client, born, Arc::clone(&generation)));
    }
}

async fn pump(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    born: u64,
    generation: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if generation.load(Ordering::SeqCst) != born {
            // Held open, and never answered.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
