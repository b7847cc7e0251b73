//! While the database is away, an answer is in a file: sealed and whole. Whoever finds it puts it into the
//! database.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keyholder_proto::v1::ConnectionState;
use keyholder_testkit::provider::Stage;

use super::staged::{Class, NONE, STATIC, Staged, files_named, number, serve, times_logged};
use crate::harness::{DATABASE, Server, binary, eventually};

/// A server that has an answer in a file, and no database.
async fn without_a_database(class: Class) -> Staged {
    let mut staged = Staged::start(class).await;
    let gate = staged.hold(Stage::After);
    staged.oauth.world.postgres.kill_hard().unwrap();
    gate.release();
    eventually("a spooled answer", || (staged.spooled().len() == 1).then_some(()));
    staged
}

/// The same, and the server died before the database came back.
async fn dead_with_a_file(class: Class) -> (Staged, PathBuf) {
    let mut staged = without_a_database(class).await;
    staged.power_cut();
    staged.oauth.world.postgres.restart().unwrap();
    let file = staged.spooled().remove(0);
    (staged, file)
}

/// That the answer is here, although its provider takes a replaced token for a theft.
async fn assert_nothing_lost(staged: &Staged) {
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1, "nobody asked twice");
    eventually("a file that is gone", || staged.spooled().is_empty().then_some(()));
}

/// Waits until an answer was found, and lets whoever holds its attempt be gone.
fn end_leases_once_found(staged: &Staged) {
    staged.until_row("sealed_answer IS NOT NULL OR attempt_id IS NULL");
    staged.end_leases();
}

/// Lets the database take no writes, or take them again, and ends every session: it counts for new ones.
fn set_read_only(staged: &Staged, read_only: bool) {
    let set = format!("ALTER DATABASE {DATABASE} SET default_transaction_read_only = {read_only}");
    staged.oauth.world.postgres.psql("postgres", &set).unwrap();
    let end =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{DATABASE}'");
    staged.oauth.world.postgres.psql("postgres", &end).unwrap();
}

// === Where it is ===

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_answer_that_comes_while_the_database_is_away_is_in_a_sealed_file() {
    let mut staged = without_a_database(NONE).await;
    let file = staged.spooled().remove(0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("enc:v1:"), "it is sealed");
    let secrets = staged.oauth.provider.secrets();
    assert!(secrets.len() >= 5, "a code and two pairs of tokens");
    for entry in fs::read_dir(staged.spool()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "a token is in the clear");
    }
    let log = fs::read_to_string(&staged.oauth.world.server.log).unwrap();
    assert!(secrets.iter().all(|secret| !log.contains(secret.as_str())), "a token is in the log");
    assert_eq!(number(&staged.oauth.world.server, "keyholder_refresh_spooled_answers"), 1.0);
    staged.oauth.world.postgres.restart().unwrap();
    assert_nothing_lost(&staged).await;
    assert_eq!(number(&staged.oauth.world.server, "keyholder_refresh_spooled_answers"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_the_same_process_keeps_the_answer_once_the_database_is_back() {
    let mut staged = without_a_database(NONE).await;
    staged.oauth.world.postgres.restart().unwrap();
    assert_nothing_lost(&staged).await;
}

// === Whoever finds it ===

#[tokio::test(flavor = "multi_thread")]
async fn f1_i3_a_process_that_starts_again_finds_the_answer_of_its_past() {
    let (mut staged, _) = dead_with_a_file(NONE).await;
    staged.succeed_with("again", &[]);
    end_leases_once_found(&staged);
    assert_nothing_lost(&staged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_i3_a_process_that_starts_long_after_finds_the_answer_too() {
    let (mut staged, _) = dead_with_a_file(NONE).await;
    staged.end_leases();
    staged.succeed_with("again", &[]);
    end_leases_once_found(&staged);
    assert_nothing_lost(&staged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_i3_another_replica_on_the_same_folder_finds_the_answer() {
    let mut staged = Staged::start(NONE).await;
    let gate = staged.hold(Stage::After);
    // It was there all the time, and lived through it.
    let (second, _) = staged.oauth.replica("second");
    staged.oauth.world.postgres.kill_hard().unwrap();
    gate.release();
    eventually("a spooled answer", || (staged.spooled().len() == 1).then_some(()));
    staged.power_cut();
    staged.oauth.world.postgres.restart().unwrap();
    end_leases_once_found(&staged);
    staged.oauth.world.server = second;
    assert_nothing_lost(&staged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_put_into_the_database_twice_changes_nothing() {
    let (mut staged, file) = dead_with_a_file(NONE).await;
    let text = fs::read(&file).unwrap();
    staged.end_leases();
    staged.succeed_with("again", &[]);
    end_leases_once_found(&staged);
    assert_nothing_lost(&staged).await;
    let token = staged.token().await;
    for _ in 0..2 {
        fs::write(&file, &text).unwrap();
        eventually("a file that is gone", || staged.spooled().is_empty().then_some(()));
    }
    // It does not come back with the next doubt either.
    staged.oauth.provider.spoil(1, Stage::Before, keyholder_testkit::provider::Effect::Reset);
    staged.make_due();
    staged.until_ambiguous();
    staged.end_access_token();
    staged.until_row("ambiguous_time IS NULL AND attempt_id IS NULL");
    let now = staged.now().await;
    assert_eq!((now.state(), now.generation), (ConnectionState::Active, staged.made.generation + 2));
    assert_ne!(staged.token().await, token);
    assert_eq!((staged.asked(), staged.oauth.provider.counts().replays), (3, 0));
}

// === Damage ===

#[tokio::test(flavor = "multi_thread")]
async fn i3_damaged_files_are_set_aside_and_lose_nothing_else() {
    let (mut staged, file) = dead_with_a_file(NONE).await;
    let whole = fs::read_to_string(&file).unwrap();
    let damaged = [
        ("empty", String::new()),
        ("half", whole[..whole.len() / 2].to_owned()),
        ("other", whole.replace("connection_id", "connection")),
        ("nobody", "{\"organization_id\":\"\"}".to_owned()),
    ];
    for (name, text) in &damaged {
        fs::write(staged.spool().join(format!("{name}.answer")), text).unwrap();
    }
    fs::write(staged.spool().join("0.answer"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(staged.spool().join("0.part"), &whole.as_bytes()[..20]).unwrap();
    staged.end_leases();
    staged.succeed_with("again", &[]);
    end_leases_once_found(&staged);
    assert_nothing_lost(&staged).await;
    assert_eq!(files_named(&staged.spool(), "unreadable").len(), damaged.len() + 1, "an operator may look");
    assert_eq!(
        times_logged(&staged.oauth.world.server, "a spooled answer cannot be read"),
        damaged.len() + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_file_that_the_database_does_not_take_does_not_hold_up_the_others() {
    let (mut staged, file) = dead_with_a_file(NONE).await;
    let whole = fs::read_to_string(&file).unwrap();
    for number in 0..16 {
        // A character that Postgres does not store.
        let text = whole.replace("enc:v1:", "enc:v1:\\u0000");
        fs::write(staged.spool().join(format!("{number}.answer")), text).unwrap();
    }
    staged.end_leases();
    staged.succeed_with("again", &[]);
    end_leases_once_found(&staged);
    staged.assert_refreshed().await;
    assert!(!file.exists());
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_answer_that_does_not_open_leaves_the_same_doubt_as_none() {
    let (mut staged, file) = dead_with_a_file(STATIC).await;
    let whole = fs::read_to_string(&file).unwrap();
    let place = whole.find("enc:v1:").unwrap() + 60;
    let other = if &whole[place..=place] == "A" { "B" } else { "A" };
    fs::write(&file, format!("{}{other}{}", &whole[..place], &whole[place + 1..])).unwrap();
    staged.succeed_with("again", &[]);
    staged.until_row("sealed_answer IS NOT NULL");
    staged.end_leases();
    // The old token is as good as ever: the provider is asked once more.
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 2);
}

// === A folder that is none ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_in_its_state_directory_does_not_start() {
    let mut staged = Staged::start(NONE).await;
    staged.power_cut();
    let world = &staged.oauth.world;
    // Root may write in any folder, but not in a file.
    fs::write(world.dir.path().join("file"), "").unwrap();
    for (directory, roles) in
        [("file", "server,refresher"), ("file/state", "refresher"), ("/proc", "refresher")]
    {
        let output = Command::new(binary())
            .args(["serve", "--roles", roles])
            .current_dir(world.dir.path())
            .env("DATABASE_URL", world.postgres.url(DATABASE))
            .env("KEYHOLDER_REFRESHER__STATE_DIRECTORY", directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
        assert_eq!(said.len(), 1, "one line beside the log: {text}");
        assert!(said[0].contains("[refresher] state_directory: cannot write in"), "{text}");
        assert!(said[0].contains(directory), "{text}");
    }
    // Who refreshes nothing needs none.
    let url = world.postgres.url(DATABASE);
    let variables = [("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "file")];
    let mut server: Server = serve(world, "server", &url, &["--roles", "server"], &variables);
    server.wait_for_log("serving");
}

// === A database that takes nothing ===

#[tokio::test(flavor = "multi_thread")]
async fn f9_while_the_database_takes_no_writes_the_provider_is_not_asked() {
    let staged = Staged::start(NONE).await;
    set_read_only(&staged, true);
    staged.oauth.world.sql(
        "BEGIN READ WRITE; UPDATE refreshes SET due_time = clock_timestamp() - interval '1 second'; COMMIT",
    );
    let server = &staged.oauth.world.server;
    let said = "what is to be refreshed could not be claimed; trying again";
    eventually("some tries", || (times_logged(server, said) >= 5).then_some(()));
    assert_eq!(staged.asked(), 0, "what cannot be stored is not rotated");
    set_read_only(&staged, false);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_i3_an_answer_that_comes_when_the_database_takes_no_writes_is_not_lost() {
    let staged = Staged::start(NONE).await;
    let gate = staged.hold(Stage::After);
    set_read_only(&staged, true);
    gate.release();
    eventually("a spooled answer", || (staged.spooled().len() == 1).then_some(()));
    set_read_only(&staged, false);
    assert_nothing_lost(&staged).await;
}
