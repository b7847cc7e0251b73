//! Files that are there whole or not at all.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::PkiError;

pub(super) fn create_dir(dir: &Path) -> Result<(), PkiError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PkiError::Write { file: dir.into(), source })
}

pub(super) fn write(file: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    write_atomically(file, text, mode).map_err(|source| PkiError::Write { file: file.into(), source })
}

fn write_atomically(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    fs::File::open(dir)?.sync_all()
}
