//! Where a server's data and its socket are.

use std::{
    env,
    fs::{self, File, Permissions, TryLockError},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Account, PostgresError};

/// The longest path of a socket that every system takes (macOS: 103 bytes, Linux: 107).
const LONGEST_SOCKET: usize = 100;

/// What the name of a folder for a socket begins with.
const SOCKETS: &str = "kh-pg-";

/// Where data goes that the server could not reach in its own folder.
const ELSEWHERE: &str = "/var/lib/keyholder";

/// The folder that the caller named, held for this process alone.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    /// Freed by the system when this process ends, in whatever way.
    _lock: File,
}

impl Locked {
    /// Makes the folder if it is not there, and locks it.
    pub(super) fn new(path: &Path) -> Result<Self, PostgresError> {
        fs::create_dir_all(path).map_err(PostgresError::io("make", path))?;
        let path = path.canonicalize().map_err(PostgresError::io("find", path))?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(PostgresError::io("make", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(PostgresError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(PostgresError::io("lock", file)(error)),
        }
    }

    /// The folder of the data, or the link to it.
    pub(super) fn cluster(&self) -> PathBuf {
        self.path.join("cluster")
    }
}

/// Where the data is.
#[derive(Debug)]
pub(super) struct Home {
    cluster: PathBuf,
    log: PathBuf,
    _locked: Option<Locked>,
}

impl Home {
    /// The home of data that stays.
    pub(super) fn persistent(locked: Locked, account: &Account) -> Result<Self, PostgresError> {
        let link = locked.cluster();
        let cluster = if let Ok(target) = fs::read_link(&link) {
            target
        } else if account.can_enter(&locked.path) {
            link
        } else if link.exists() {
            return Err(PostgresError::Unusable {
                path: link,
                problem: "cannot be reached by the user that Postgres runs as",
            });
        } else {
            let cluster = make_elsewhere(Path::new(ELSEWHERE), &locked.path)?.join("cluster");
            symlink(&cluster, &link).map_err(PostgresError::io("link", link))?;
            cluster
        };
        if let Some(folder) = cluster.parent() {
            fs::create_dir_all(folder).map_err(PostgresError::io("make", folder))?;
        }
        Ok(Self { cluster, log: locked.path.join("postgres.log"), _locked: Some(locked) })
    }

    /// The home of data that goes with its folder.
    pub(super) fn temporary(folder: &Path) -> Self {
        Self { cluster: folder.join("cluster"), log: folder.join("postgres.log"), _locked: None }
    }

    /// Whether there is no data yet.
    pub(super) fn is_new(&self) -> bool {
        !self.cluster.exists()
    }

    pub(super) fn cluster(&self) -> &Path {
        &self.cluster
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

/// A new folder for data that belongs to another one. Never one that is there already: whoever deletes the
/// folder that the link is in wants to begin anew.
fn make_elsewhere(base: &Path, belongs_to: &Path) -> Result<PathBuf, PostgresError> {
    fs::create_dir_all(base).map_err(PostgresError::io("make", base))?;
    let name = name_of(belongs_to);
    for number in 1.. {
        let folder = base.join(if number == 1 { name.clone() } else { format!("{name}.{number}") });
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PostgresError::io("make", folder)(error)),
        }
    }
    unreachable!("numbers do not end")
}

/// A path as a name: `/root/a b/pg` is `root-a-b-pg`.
fn name_of(path: &Path) -> String {
    let text = path.to_string_lossy();
    let words =
        text.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    name[name.len().saturating_sub(200)..].trim_start_matches('-').to_owned()
}

/// A short folder of the server's own, for its socket. Removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateFolder(TempDir);

impl PrivateFolder {
    /// A folder for a socket.
    pub(super) fn new(account: &Account) -> Result<Self, PostgresError> {
        Self::new_in(&[env::temp_dir(), "/tmp".into(), "/var/tmp".into()], account)
    }

    /// A folder for a socket and for data that need not last, in memory if there is room for it: new data is
    /// a thousand small files, which a disk may take most of a second to make. `TMPDIR` has the last word.
    pub(super) fn for_data(account: &Account) -> Result<Self, PostgresError> {
        let memory = Path::new("/dev/shm");
        if env::var_os("TMPDIR").is_none() && has_room(memory) && account.can_enter(memory) {
            return Self::new_in(&[memory.into()], account);
        }
        Self::new(account)
    }

    fn new_in(bases: &[PathBuf], account: &Account) -> Result<Self, PostgresError> {
        let base = bases
            .iter()
            .find(|base| is_short(base) && account.can_enter(base))
            .ok_or_else(|| PostgresError::NoSocketFolder { account: format!("user {}", account.uid()) })?;
        let folder = tempfile::Builder::new()
            .prefix(SOCKETS)
            .rand_bytes(8)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)
            .map(Self)
            .map_err(PostgresError::io("make a folder in", base))?;
        account.give(folder.path())?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Whether a folder is one that was made for a socket.
pub(super) fn is_for_sockets(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SOCKETS))
}

/// Whether a folder has room for several servers. A container often has 64 MiB there.
fn has_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= 1 << 30)
}

fn is_short(base: &Path) -> bool {
    base.is_absolute() && base.as_os_str().len() + "/kh-pg-12345678/.s.PGSQL.5432".len() <= LONGEST_SOCKET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let held = Locked::new(folder.path()).unwrap();
        assert!(matches!(Locked::new(folder.path()), Err(PostgresError::InUse { .. })));
        drop(held);
        assert!(Locked::new(folder.path()).is_ok());
    }

    #[test]
    fn data_elsewhere_is_never_given_to_a_second_folder_of_the_same_name() {
        let base = tempfile::tempdir().unwrap();
        let make = || make_elsewhere(base.path(), Path::new("/root/a b/pg")).unwrap();
        assert_eq!(make(), base.path().join("root-a-b-pg"));
        assert_eq!(make(), base.path().join("root-a-b-pg.2"));
    }

    #[test]
    fn a_long_path_is_no_place_for_a_socket() {
        assert!(is_short(Path::new("/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T")));
        assert!(!is_short(&Path::new("/").join("x".repeat(80))));
        assert!(!is_short(Path::new("tmp")));
    }
}
