//! The data of a server: made by `initdb`, read by its own major version only.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use super::{Account, Binaries, PostgresError, client::SUPERUSER, process};

/// Makes the data of a new server, all or nothing.
pub(super) fn create(binaries: &Binaries, account: &Account, cluster: &Path) -> Result<(), PostgresError> {
    let unfinished = cluster.with_extension("unfinished");
    remove(&unfinished)?;
    init(binaries, account, &unfinished, &["--data-checksums"])?;
    fs::rename(&unfinished, cluster).map_err(PostgresError::io("rename", unfinished))
}

/// Runs `initdb` in a new folder.
pub(super) fn init(
    binaries: &Binaries,
    account: &Account,
    cluster: &Path,
    options: &[&str],
) -> Result<(), PostgresError> {
    make_private_folder(cluster)?;
    account.give(cluster)?;
    let mut initdb = account.command(binaries.program("initdb"));
    initdb
        .arg("--pgdata")
        .arg(cluster)
        .args(["--username", SUPERUSER, "--encoding=UTF8", "--locale=C"])
        .args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"])
        .args(options);
    process::run("initdb", &mut initdb)
}

/// Whether the data was made by the version in use.
pub(super) fn check_version(binaries: &Binaries, cluster: &Path) -> Result<(), PostgresError> {
    let file = cluster.join("PG_VERSION");
    let found = fs::read_to_string(&file).map_err(PostgresError::io("read", file))?.trim().to_owned();
    if found == binaries.major().to_string() {
        return Ok(());
    }
    Err(PostgresError::OtherVersion {
        path: cluster.to_owned(),
        found,
        installed: binaries.major(),
        bin_dir: binaries.bin_dir().to_owned(),
    })
}

/// A new folder that only its owner can enter, as Postgres demands it.
pub(super) fn make_private_folder(path: &Path) -> Result<(), PostgresError> {
    DirBuilder::new().mode(0o700).create(path).map_err(PostgresError::io("make", path))
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), PostgresError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PostgresError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
