//! Tasks that run as long as the process does.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

/// How long a task that panicked is left alone: what it fell over may still be there.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task to its end, and begins it anew each time it panics: what one row does to it must not end its work for all
/// others.
pub async fn keep_running<F: Future<Output = ()>>(task: &'static str, mut begin: impl FnMut() -> F) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(task, "a task panicked; it begins anew");
        tokio::time::sleep(PAUSE).await;
    }
}
