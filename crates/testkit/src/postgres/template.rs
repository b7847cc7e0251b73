//! Fresh data in a moment: `initdb` runs once per machine, user and version; after that its result is copied.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::{Account, Binaries, PostgresError, cluster};

/// Grows when [`OPTIONS`] or the layout changes.
const LAYOUT: u32 = 1;

/// Small and unflushed, so that a copy is quick to make.
const OPTIONS: [&str; 2] = ["--no-sync", "--wal-segsize=1"];

/// Makes fresh data in a folder that is not there yet.
pub(super) fn copy_to(binaries: &Binaries, account: &Account, target: &Path) -> Result<(), PostgresError> {
    match Template::find(binaries, account)? {
        Some(template) => template.copy_to(binaries, account, target),
        None => cluster::init(binaries, account, target, &OPTIONS),
    }
}

struct Template {
    /// The data. Belongs to us, not to the user that the server runs as.
    data: PathBuf,
    /// How many files the data has. Written last: without it, the data is not whole.
    count: PathBuf,
    lock: PathBuf,
}

impl Template {
    /// The template for a version and a user; `None` if somebody else made the folder that it belongs in.
    fn find(binaries: &Binaries, account: &Account) -> Result<Option<Self>, PostgresError> {
        let own = geteuid().as_raw();
        let folder = env::temp_dir().join(format!("keyholder-postgres-{own}"));
        if !folder.exists() {
            // Two processes may do this at once.
            let made = cluster::make_private_folder(&folder);
            if !folder.is_dir() {
                made?;
            }
        }
        let found = fs::symlink_metadata(&folder).map_err(PostgresError::io("read", &folder))?;
        if !found.is_dir() || found.uid() != own || found.mode() & 0o077 != 0 {
            tracing::warn!(folder = %folder.display(), "not a private folder of ours: not used");
            return Ok(None);
        }
        let keep = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        let version: String = binaries.version().chars().map(keep).collect();
        let path = |suffix: &str| folder.join(format!("{version}-{}-{LAYOUT}.{suffix}", account.uid()));
        Ok(Some(Self { data: path("data"), count: path("count"), lock: path("lock") }))
    }

    fn copy_to(&self, binaries: &Binaries, account: &Account, target: &Path) -> Result<(), PostgresError> {
        let failed = || PostgresError::io("lock", &self.lock);
        let lock = File::create(&self.lock).map_err(failed())?;
        lock.lock_shared().map_err(failed())?;
        if self.try_copy(account, target)? {
            return Ok(());
        }
        lock.unlock().map_err(failed())?;
        lock.lock().map_err(failed())?;
        // Somebody else may have made it while we waited.
        if self.try_copy(account, target)? {
            return Ok(());
        }
        cluster::init(binaries, account, target, &OPTIONS)?;
        self.fill_from(target)
    }

    /// Copies the data, if there is any and it is whole. A system that tidies up its temporary files may have
    /// taken some of them.
    fn try_copy(&self, account: &Account, target: &Path) -> Result<bool, PostgresError> {
        let expected = fs::read_to_string(&self.count).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(expected) = expected else { return Ok(false) };
        if copy(&self.data, target, Some(account)).is_ok_and(|copied| copied == expected) {
            return Ok(true);
        }
        cluster::remove(target)?;
        Ok(false)
    }

    fn fill_from(&self, source: &Path) -> Result<(), PostgresError> {
        match fs::remove_file(&self.count) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::io("remove", &self.count)(error));
            }
            _ => cluster::remove(&self.data)?,
        }
        let count = copy(source, &self.data, None)?;
        fs::write(&self.count, count.to_string()).map_err(PostgresError::io("write", &self.count))
    }
}

/// Copies a folder and counts the files.
fn copy(source: &Path, target: &Path, owner: Option<&Account>) -> Result<u64, PostgresError> {
    let give = |path: &Path| owner.map_or(Ok(()), |account| account.give(path));
    cluster::make_private_folder(target)?;
    give(target)?;
    let mut count = 0;
    for entry in fs::read_dir(source).map_err(PostgresError::io("read", source))? {
        let entry = entry.map_err(PostgresError::io("read", source))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if entry.file_type().map_err(PostgresError::io("read", &from))?.is_dir() {
            count += copy(&from, &to, owner)?;
        } else {
            fs::copy(&from, &to).map_err(PostgresError::io("copy", &from))?;
            give(&to)?;
            count += 1;
        }
    }
    Ok(count)
}
