//! `keyholder dev`: needs nothing, keeps its data, leaves nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::{binary, eventually, send_signal};

struct Dev {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Dev {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(["dev", "--dir"])
            .arg(dir)
            .args(arguments)
            .env("KEYHOLDER_GRPC__LISTEN", "127.0.0.1:0")
            .env("KEYHOLDER_ADMIN__LISTEN", "127.0.0.1:0")
            .env("KEYHOLDER_WEB__LISTEN", "127.0.0.1:0")
            // Somebody's own database is none of its business.
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/mine")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Reads what it prints until it serves.
    fn until_serving(&mut self) -> String {
        let mut text = String::new();
        while !text.contains("Ctrl-C stops it") {
            if self.lines.read_line(&mut text).unwrap() == 0 {
                let mut error = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("keyholder dev ended: {text}{error}");
            }
        }
        text
    }

    fn signal(&self, signal: &str) {
        send_signal(self.child.id(), signal);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The process id of the database server of a folder, if it runs.
fn postmaster(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join("postgres/cluster/postmaster.pid")).ok()?;
    let id: u32 = text.lines().next()?.parse().ok()?;
    Path::new(&format!("/proc/{id}")).exists().then_some(id)
}

#[test]
fn walks_keeps_its_data_and_leaves_no_process_behind() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("dev");
    let mut dev = Dev::start(&dir, &["--walk"]);
    let text = dev.until_serving();
    for expected in [
        "1. Connect.",
        "enc:v1:dk_",
        "Authorization: Bearer sk-demo-",
        "GRANT_REVOKED",
        "6. Consent.",
        "/connect/",
        "grpcurl -max-time",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert!(postmaster(&dir).is_some());
    dev.signal("INT");
    let status = dev.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(postmaster(&dir), None, "after Ctrl-C");

    let mut dev = Dev::start(&dir, &["--walk"]);
    dev.until_serving();
    dev.signal("KILL");
    dev.child.wait().unwrap();
    eventually("the end of Postgres after kill -9 of its parent", || {
        postmaster(&dir).is_none().then_some(())
    });

    let mut dev = Dev::start(&dir, &[]);
    dev.until_serving();
    let log = fs::read_to_string(dir.join("keyholder.log")).unwrap();
    assert!(log.contains("serving"), "{log}");
    let sealed = fs::read(dir.join("encryption.key")).unwrap();
    assert!(!sealed.is_empty());
}

#[test]
fn says_in_one_line_that_a_port_is_in_use() {
    let parent = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(binary())
        .args(["dev", "--dir"])
        .arg(parent.path().join("dev"))
        .env("KEYHOLDER_GRPC__LISTEN", taken.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.lines().count() == 1 && error.contains("cannot listen on"),
        "{error}"
    );
    assert_eq!(postmaster(&parent.path().join("dev")), None);
}
