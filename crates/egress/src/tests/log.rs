//! What the log says of a call: the host and the reason. Not a word of the rest, at any level, of any crate.

use std::io;
use std::sync::{Arc, Mutex};

use http::{Method, header};
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use zeroize::Zeroizing;

use super::server::{Root, Server};
use crate::{Egress, Request, Settings, Target};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_failure_is_one_line_with_the_host_and_the_reason() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // With one subscriber only, tracing would ask the thread that comes first to a place in the code whether anybody wants
    // its lines, and threads of other tests have none that does.
    let _another = Dispatch::new(tracing_subscriber::registry());
    let root = Root::new();
    let redirect =
        "HTTP/1.1 302 Found\r\nlocation: /hush\r\nset-cookie: hush\r\ncontent-length: 4\r\n\r\nhush";
    let server = Server::answering(Some(root.server(["127.0.0.1"])), redirect).await;
    let egress = Egress::new(&Settings { danger: server.danger(), ..root.settings() }).unwrap();
    let target = Target::parse(&server.url("https", "/hush?hush=hush"), egress.rules()).unwrap();
    let request = Request::new(Method::POST, target)
        .secret_header(header::AUTHORIZATION, Zeroizing::new(b"Bearer hush".to_vec()))
        .unwrap()
        .body(Zeroizing::new(b"hush".to_vec()));
    let error = egress.send(request).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"));
    let (text, host) = (log.text(), format!("host=https://{}", server.address));
    let lines: Vec<_> = text.lines().filter(|line| line.contains(&host)).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains("call refused") && lines[0].contains("reason=\"redirect\""), "{}", lines[0]);
    assert!(text.contains("danger: this host may be called"), "every start warns");
    assert!(!text.contains("hush"), "{text}");
}
