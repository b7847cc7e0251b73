use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::geteuid;

use super::PostgresError;

/// The user that the server runs as: this process's own, or another one if that is root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    uid: u32,
    /// The user and group to become.
    other: Option<(u32, u32)>,
}

impl Account {
    /// The user for a new server.
    pub(super) fn current() -> Result<Self, PostgresError> {
        let own = geteuid();
        if !own.is_root() {
            return Ok(Self { uid: own.as_raw(), other: None });
        }
        let (uid, gid) =
            ["postgres", "nobody"].into_iter().find_map(look_up).ok_or(PostgresError::NoAccount)?;
        Ok(Self { uid, other: Some((uid, gid)) })
    }

    /// The user for a server whose data may be there already: then its owner, so that root does not take a
    /// user's data away.
    pub(super) fn for_data(cluster: &Path) -> Result<Self, PostgresError> {
        match fs::metadata(cluster) {
            Ok(data) if geteuid().is_root() && data.uid() != 0 => {
                Ok(Self { uid: data.uid(), other: Some((data.uid(), data.gid())) })
            }
            _ => Self::current(),
        }
    }

    pub(super) const fn uid(&self) -> u32 {
        self.uid
    }

    /// A command that runs as this user, knows nothing of the Postgres variables of the environment, speaks
    /// English, and is not stopped by a Ctrl-C meant for us.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = clean_command(program);
        if let Some((uid, gid)) = self.other {
            // Without supplementary groups: the standard library drops them with the user.
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").process_group(0);
        command
    }

    /// Gives a file or folder to this user.
    pub(super) fn give(&self, path: &Path) -> Result<(), PostgresError> {
        match self.other {
            Some((uid, gid)) => {
                chown(path, Some(uid), Some(gid)).map_err(PostgresError::io("give away", path))
            }
            None => Ok(()),
        }
    }

    /// Whether this user can get into a folder.
    pub(super) fn can_enter(&self, folder: &Path) -> bool {
        if self.other.is_none() {
            return folder.is_dir();
        }
        let mut command = self.command("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// A command without the variables that libpq and the server listen to.
pub(super) fn clean_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // Besides, a macOS server without a locale refuses to start ("postmaster became multithreaded").
    command.env("LC_ALL", "C");
    command
}

/// The numbers of a user.
fn look_up(name: &str) -> Option<(u32, u32)> {
    let ask = |what| {
        let output = Command::new("id").args([what, name]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((ask("-u")?, ask("-g")?)).filter(|(uid, _)| *uid != 0)
}
