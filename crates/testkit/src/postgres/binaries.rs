use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::PostgresError;

/// The Postgres programs of this machine.
#[derive(Debug, Clone)]
pub struct Binaries {
    bin_dir: PathBuf,
    version: String,
    major: u32,
}

/// The oldest major version that Keyholder runs on.
const OLDEST: u32 = 14;

/// What a folder must have to be of use. Debian's `pg_config` can be there without a server.
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];

impl Binaries {
    /// Finds Postgres 14 or later: in `KEYHOLDER_PG_BIN` if that is set; else where `pg_config` points, then
    /// in the folders of Debian, Red Hat, Homebrew and Postgres.app, the newest first, then on the `PATH`.
    pub fn find() -> Result<Self, PostgresError> {
        match env::var_os("KEYHOLDER_PG_BIN").filter(|path| !path.is_empty()) {
            Some(path) => {
                let path = PathBuf::from(path);
                Self::in_folder(&path).ok_or(PostgresError::WrongBinDir { path, oldest: OLDEST })
            }
            None => folders()
                .iter()
                .find_map(|folder| Self::in_folder(folder))
                .ok_or(PostgresError::NotInstalled { oldest: OLDEST }),
        }
    }

    /// The folder that the programs are in.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The major version, such as 17.
    pub const fn major(&self) -> u32 {
        self.major
    }

    /// What `postgres --version` says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Whether the library of `pg_stat_statements` is installed. Debian and Fedora ship it apart.
    pub(super) fn have_statement_statistics(&self) -> bool {
        let told = first_line(Command::new(self.program("pg_config")).arg("--pkglibdir")).map(PathBuf::from);
        let beside =
            ["../lib", "../lib/postgresql", "../lib64/pgsql"].map(|folder| self.bin_dir.join(folder));
        told.into_iter().chain(beside).any(|folder| {
            ["so", "dylib"].iter().any(|suffix| folder.join(format!("pg_stat_statements.{suffix}")).is_file())
        })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        if !PROGRAMS.iter().all(|program| folder.join(program).is_file()) {
            return None;
        }
        let version = first_line(Command::new(folder.join("postgres")).arg("--version"))?;
        let major = major_version(&version).filter(|major| *major >= OLDEST)?;
        Some(Self { bin_dir: folder.to_owned(), version, major })
    }
}

/// Where to look, the best first.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        first_line(Command::new("pg_config").arg("--bindir")).map(PathBuf::from).into_iter().collect();
    folders.extend(versions_under(Path::new("/usr/lib/postgresql"), ""));
    folders.extend(versions_under(Path::new("/usr"), "pgsql-"));
    folders.push("/usr/libexec/postgresql".into());
    for prefix in ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"] {
        folders.extend(versions_under(&Path::new(prefix).join("opt"), "postgresql@"));
        folders.push(Path::new(prefix).join("opt/postgresql/bin"));
    }
    folders.push("/Applications/Postgres.app/Contents/Versions/latest/bin".into());
    folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    folders
}

/// The `bin` folders of the versions that are installed side by side, the newest first.
fn versions_under(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|one, other| other.cmp(one));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

/// The number after the last bracket of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    number[..digits].parse().ok()
}

/// The first line that a program writes, if it ends well.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let line = str::from_utf8(&output.stdout).ok()?.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version_of_releases_packages_and_betas() {
        for (version, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 17.2", Some(17)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres (EnterpriseDB) x", None),
        ] {
            assert_eq!(major_version(version), major, "{version}");
        }
    }

    #[test]
    fn the_newest_version_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9", "15", "17", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = versions_under(folder.path(), "");
        assert_eq!(found, ["17/bin", "15/bin", "9/bin"].map(|path| folder.path().join(path)));
    }

    #[test]
    fn a_folder_without_a_server_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("psql"), "").unwrap();
        assert!(Binaries::in_folder(folder.path()).is_none());
    }

    #[test]
    fn says_in_one_line_per_system_what_to_install() {
        let text = PostgresError::NotInstalled { oldest: OLDEST }.to_string();
        for system in ["Debian", "Fedora", "macOS"] {
            assert_eq!(text.lines().filter(|line| line.contains(system)).count(), 1, "{text}");
        }
    }
}
