use std::{
    fmt::Write as _,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{Binaries, PostgresError, account::clean_command, process::tail};

/// The name of the database user who may do everything.
pub(super) const SUPERUSER: &str = "postgres";

/// The number that is part of the socket's name. There is no port.
pub(super) const PORT: &str = "5432";

/// How the server is talked to.
#[derive(Debug)]
pub(super) struct Client {
    psql: PathBuf,
    sockets: PathBuf,
}

impl Client {
    pub(super) fn new(binaries: &Binaries, sockets: &Path) -> Self {
        Self { psql: binaries.program("psql"), sockets: sockets.to_owned() }
    }

    /// The host in front is a dummy; `host=` counts. Port and TLS mode are spelled out because clients else
    /// take them from `PGPORT` and `PGSSLMODE`; a socket knows no TLS.
    pub(super) fn url(&self, database: &str) -> String {
        let database = percent_encode(database.as_bytes(), false);
        let sockets = percent_encode(self.sockets.as_os_str().as_encoded_bytes(), true);
        format!("postgres://{SUPERUSER}@localhost:{PORT}/{database}?host={sockets}&sslmode=disable")
    }

    pub(super) fn run(&self, database: &str, sql: &str) -> Result<String, PostgresError> {
        // From a file, not from a pipe: nobody has to write while somebody else has to read.
        let failed = || PostgresError::io("write", std::env::temp_dir());
        let mut script = tempfile::tempfile().map_err(failed())?;
        script.write_all(sql.as_bytes()).and_then(|()| script.rewind()).map_err(failed())?;
        let output = clean_command(&self.psql)
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
            .arg(self.url(database))
            .stdin(script)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(PostgresError::io("run", &self.psql))?;
        if !output.status.success() {
            return Err(PostgresError::Failed {
                program: "psql",
                status: output.status,
                output: tail(&output.stderr),
            });
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }
}

pub(super) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn percent_encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut encoded = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_strange_names() {
        let client = Client { psql: PathBuf::new(), sockets: "/tmp/a b".into() };
        let url = "postgres://postgres@localhost:5432/x%2Fy%3Fz?host=/tmp/a%20b&sslmode=disable";
        assert_eq!(client.url("x/y?z"), url);
    }
}
