use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, getpgid, getpgrp};
use tempfile::TempDir;

use super::{
    process::{children_of, command_line, every_process, is_running, signal, wait_until},
    *,
};

/// A folder that every user can enter.
fn open_folder() -> TempDir {
    folder_with_mode(0o755)
}

fn folder_with_mode(mode: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    folder
}

fn count_rows(postgres: &PrivatePostgres) -> String {
    postgres.psql("postgres", "SELECT count(*) FROM kept").unwrap()
}

#[test]
fn a_temporary_one_answers_and_leaves_nothing_behind() {
    let postgres = PrivatePostgres::temporary().unwrap();
    postgres.create_database("a \"b\"").unwrap();
    assert_eq!(postgres.psql("a \"b\"", "SELECT 1; SELECT 2, 'x';").unwrap(), "1\n2|x");
    assert_eq!(
        postgres
            .psql("postgres", "SHOW server_encoding; SELECT datcollate FROM pg_database LIMIT 1; SHOW fsync")
            .unwrap(),
        "UTF8\nC\noff"
    );
    let (pid, folder) = (postgres.process_id().unwrap(), postgres.data_dir().to_owned());
    drop(postgres);
    assert!(!is_running(pid) && !folder.exists() && !folder.parent().unwrap().exists());
}

#[test]
fn nobody_else_reaches_it_and_ctrl_c_does_not_either() {
    let postgres = PrivatePostgres::temporary().unwrap();
    assert_eq!(postgres.psql("postgres", "SHOW listen_addresses").unwrap(), "");
    let sockets = fs::metadata(postgres.data_dir().parent().unwrap()).unwrap();
    assert_eq!(sockets.mode() & 0o777, 0o700);
    assert_ne!(sockets.uid(), 0, "the server is never root");
    let pid = Pid::from_raw(postgres.process_id().unwrap().cast_signed());
    assert_ne!(getpgid(pid).unwrap(), getpgrp());
}

#[test]
fn says_what_sql_did_wrong() {
    let postgres = PrivatePostgres::temporary().unwrap();
    let error = postgres.psql("postgres", "SELECT 1; SELEC 2; SELECT 3").unwrap_err();
    assert!(error.to_string().contains("syntax error"), "{error}");
}

#[test]
fn two_run_at_once() {
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| PrivatePostgres::temporary().unwrap());
        (PrivatePostgres::temporary().unwrap(), one.join().unwrap())
    });
    one.create_database("mine").unwrap();
    assert!(other.psql("mine", "SELECT 1").is_err());
    drop(one);
    assert_eq!(other.psql("postgres", "SELECT 1").unwrap(), "1");
}

#[test]
fn data_survives_a_new_start() {
    let folder = open_folder();
    let data = folder.path().join("deep/postgres");
    let postgres = PrivatePostgres::start(&data).unwrap();
    assert_eq!(postgres.psql("postgres", "SHOW fsync").unwrap(), "on");
    postgres.psql("postgres", "CREATE TABLE kept AS SELECT 1").unwrap();
    assert!(matches!(PrivatePostgres::start(&data), Err(PostgresError::InUse { .. })));
    postgres.stop().unwrap();
    assert_eq!(count_rows(&PrivatePostgres::start(&data).unwrap()), "1");
}

#[test]
fn recovers_after_all_its_processes_were_killed() {
    let mut postgres = PrivatePostgres::temporary().unwrap();
    postgres.psql("postgres", "CREATE TABLE kept AS SELECT 1").unwrap();
    let (pid, url) = (postgres.process_id().unwrap(), postgres.url("postgres"));
    let mut session = Command::new(postgres.bin_dir().join("psql"))
        .args([&url, "-c", "SELECT pg_sleep(60)"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    assert!(wait_until(Duration::from_secs(10), || postgres.psql("postgres", sleeping).unwrap() == "1"));

    let all = children_of(pid);
    assert!(all.len() > 3, "{all:?}");
    postgres.kill_hard().unwrap();
    assert!(!is_running(pid) && !all.iter().any(|child| is_running(*child)));
    assert!(!session.wait().unwrap().success());
    assert!(postgres.psql("postgres", "SELECT 1").is_err());

    postgres.restart().unwrap();
    assert_eq!(count_rows(&postgres), "1");
    assert_eq!(postgres.url("postgres"), url);
    postgres.restart().unwrap();
    assert_eq!(count_rows(&postgres), "1");
}

#[test]
fn is_gone_after_its_parent_was_killed() {
    let (mut helper, pid, data) = start_helper(None);
    assert!(is_running(pid) && data.exists());
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert!(wait_until(Duration::from_secs(20), || !is_running(pid)), "the server is still there");
    let folder = data.parent().unwrap();
    assert!(wait_until(Duration::from_secs(20), || !folder.exists()), "{} is still there", folder.display());
}

#[test]
fn starts_at_once_after_an_earlier_parent_was_killed() {
    let folder = open_folder();
    let (mut helper, pid, _) = start_helper(Some(folder.path()));
    helper.kill().unwrap();
    helper.wait().unwrap();
    let postgres = PrivatePostgres::start(folder.path()).unwrap();
    assert!(!is_running(pid));
    assert_eq!(count_rows(&postgres), "1");
}

#[test]
fn stops_a_server_that_lost_its_watchdog() {
    let folder = open_folder();
    let (mut helper, pid, data) = start_helper(Some(folder.path()));
    // The server holds still until the watchdog has given up on it and is gone.
    signal(pid, Signal::STOP).unwrap();
    kill_watchdogs(&data);
    signal(pid, Signal::CONT).unwrap();
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert!(is_running(pid));
    assert_eq!(count_rows(&PrivatePostgres::start(folder.path()).unwrap()), "1");
    assert!(!is_running(pid));
}

#[test]
fn a_number_that_went_to_another_process_is_no_server() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(folder.path()).unwrap();
    let pid_file = postgres.data_dir().join("postmaster.pid");
    postgres.stop().unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(pid_file, format!("{}\n/nowhere\n", stranger.id())).unwrap();
    drop(PrivatePostgres::start(folder.path()).unwrap());
    assert_eq!(stranger.try_wait().unwrap(), None, "it lives on");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn data_that_the_server_could_not_reach_is_kept_elsewhere() {
    if !geteuid().is_root() {
        return; // Then the server runs as this very user.
    }
    let folder = folder_with_mode(0o700);
    let postgres = PrivatePostgres::start(folder.path()).unwrap();
    let data = postgres.data_dir().to_owned();
    assert!(data.starts_with("/var/lib/keyholder"), "{}", data.display());
    assert_eq!(fs::read_link(folder.path().join("cluster")).unwrap(), data);
    assert!(postgres.log_path().starts_with(folder.path().canonicalize().unwrap()));
    postgres.psql("postgres", "CREATE TABLE kept AS SELECT 1").unwrap();
    postgres.stop().unwrap();
    let again = PrivatePostgres::start(folder.path()).unwrap();
    assert_eq!(count_rows(&again), "1");
    drop(again);
    fs::remove_dir_all(data.parent().unwrap()).unwrap();
}

#[test]
fn refuses_data_of_another_version() {
    let folder = open_folder();
    fs::create_dir(folder.path().join("cluster")).unwrap();
    fs::write(folder.path().join("cluster/PG_VERSION"), "9.6\n").unwrap();
    let error = PrivatePostgres::start(folder.path()).unwrap_err();
    assert!(matches!(&error, PostgresError::OtherVersion { found, .. } if found == "9.6"), "{error}");
}

#[test]
fn a_failed_start_shows_the_end_of_the_log() {
    let error = PrivatePostgres::temporary_with(&Settings::default().set("no_such_word", "1")).unwrap_err();
    assert!(matches!(error, PostgresError::DidNotStart { .. }));
    assert!(error.to_string().contains("no_such_word"), "{error}");
}

#[test]
fn statement_statistics_work_where_they_are_installed() {
    let settings = Settings::default().statement_statistics().set("max_connections", "17");
    let postgres = PrivatePostgres::temporary_with(&settings).unwrap();
    assert_eq!(postgres.psql("postgres", "SHOW max_connections").unwrap(), "17");
    let made = postgres.psql("postgres", "CREATE EXTENSION pg_stat_statements");
    let counted = postgres.psql("postgres", "SELECT count(*) > 0 FROM pg_stat_statements");
    assert_eq!(made.is_ok() && counted.is_ok(), postgres.has_statement_statistics());
}

/// Starts a server in a process of its own, which can be killed. With a folder, the data has one row in it.
fn start_helper(folder: Option<&Path>) -> (Child, u32, PathBuf) {
    let name = format!("{}::helper", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--ignored", "--nocapture"]).env(HELPER, folder.unwrap_or(Path::new("")));
    let mut helper = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(helper.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find_map(|line| line.strip_prefix("server ").map(str::to_owned)).unwrap();
    let (pid, data) = line.split_once(' ').unwrap();
    (helper, pid.parse().unwrap(), data.into())
}

const HELPER: &str = "KEYHOLDER_TEST_HELPER_FOLDER";

#[test]
#[ignore = "not a test: other tests start it, and kill it"]
fn helper() {
    let Some(folder) = env::var_os(HELPER) else { return };
    let postgres = if folder.is_empty() {
        PrivatePostgres::temporary().unwrap()
    } else {
        PrivatePostgres::start(Path::new(&folder)).unwrap()
    };
    postgres.psql("postgres", "CREATE TABLE kept AS SELECT 1").unwrap();
    println!("\nserver {} {}", postgres.process_id().unwrap(), postgres.data_dir().display());
    thread::sleep(Duration::from_secs(60));
}

/// Kills the watchdogs of a server, which are the shells that name its data.
fn kill_watchdogs(data: &Path) {
    let name = format!("keyholder-postgres INT {}", data.display());
    let mut shells = every_process();
    shells.retain(|pid| command_line(*pid).is_some_and(|line| line.contains(&name)));
    assert!(!shells.is_empty());
    for pid in &shells {
        signal(*pid, Signal::KILL).unwrap();
    }
    assert!(wait_until(Duration::from_secs(5), || !shells.iter().any(|pid| is_running(*pid))));
}
