//! Many processes: each connection is refreshed by one of them, whatever becomes of the others.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1;
use keyholder_testkit::provider::{Effect, Stage};
use tonic::{Code, Request};

use super::staged::{NONE, STATIC, Staged, number, outcomes, serve, times_logged};
use crate::fault_proxy::FaultProxy;
use crate::harness::{DATABASE, Server, assert_refused, eventually, log_lines, resolve_request};
use crate::oauth::world::{CLIENT, ClientFrom, Setup, free_port};

/// Waits until a signal has done what it does: the process is stopped, or runs again.
fn signal(server: &Server, signal: &str, state: &[char]) {
    server.signal(signal);
    eventually("a process that heard its signal", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.child.id())).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.starts_with(state).then_some(())
    });
}

fn stop(server: &Server) {
    signal(server, "STOP", &['T']);
}

fn resume(server: &Server) {
    signal(server, "CONT", &['S', 'R', 'D']);
}

/// Asks a server as the owner, for a token that is good for so long, and waits a while.
async fn resolve_at(
    staged: &Staged,
    server: &Server,
    seconds: i64,
    wait: Duration,
) -> Result<String, tonic::Status> {
    let channel = staged.oauth.world.channel_to(server, "gateway");
    let mut request = resolve_request(&staged.made.owner, &staged.made.connection_id);
    request.min_ttl = (seconds > 0).then_some(prost_types::Duration { seconds, nanos: 0 });
    let mut request = Request::new(request);
    request.set_timeout(wait);
    let mut grants = v1::grant_service_client::GrantServiceClient::new(channel);
    let resolved = grants.resolve_credential(request).await?.into_inner();
    let Some(v1::credential::Kind::Oauth2(token)) = resolved.credential.unwrap().kind else { panic!() };
    Ok(token.access_token)
}

// === Sharing ===

#[tokio::test(flavor = "multi_thread")]
async fn f27_i2_three_replicas_refresh_each_connection_once_per_turn() {
    let staged = Staged::start(NONE).await;
    for person in 1..12 {
        staged.oauth.connect(&format!("user:{person}")).await;
    }
    let (second, _) = staged.oauth.replica("second");
    let (third, _) = staged.oauth.replica("third");
    for turn in 1..=4 {
        staged.make_due();
        eventually("the end of a turn", || (staged.asked() >= 12 * turn).then_some(()));
        staged.until_row("bool_and(attempt_id IS NULL AND NOT ready AND ambiguous_time IS NULL)");
    }
    let asked = staged.oauth.provider.refreshes();
    assert_eq!(asked.len(), 12 * 4);
    let shown: BTreeSet<&String> = asked.iter().map(|refreshed| &refreshed.presented).collect();
    assert_eq!(shown.len(), 12 * 4, "no refresh token was shown twice");
    let counts = staged.oauth.provider.counts();
    assert_eq!((counts.replays, counts.most_refreshes_at_once), (0, 1));
    let every = [&staged.oauth.world.server, &second, &third];
    let done: f64 = every.iter().map(|server| outcomes(server, "REFRESHED")).sum();
    assert_eq!(done, 48.0);
    assert_eq!(staged.now().await.generation, staged.made.generation + 4);
}

// === Sleepers ===

#[tokio::test(flavor = "multi_thread")]
async fn f10_f27_a_replica_that_slept_through_its_lease_brings_a_late_answer() {
    let staged = Staged::start(NONE).await;
    let (second, _) = staged.oauth.replica("second");
    let (held, second) = hold_in_one_of(&staged, second);
    let sleeper = if held.first { &staged.oauth.world.server } else { &second };
    let other = if held.first { &second } else { &staged.oauth.world.server };
    stop(sleeper);
    staged.end_leases();
    staged.until_ambiguous();
    assert_eq!(outcomes(other, "AMBIGUOUS"), 1.0);
    held.gate.release();
    resume(sleeper);
    staged.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_i2_a_replica_that_slept_through_its_lease_loses_by_its_fence() {
    let staged = Staged::start(STATIC).await;
    let (second, _) = staged.oauth.replica("second");
    let (held, second) = hold_in_one_of(&staged, second);
    let sleeper = if held.first { &staged.oauth.world.server } else { &second };
    let other = if held.first { &second } else { &staged.oauth.world.server };
    stop(sleeper);
    staged.end_leases();
    staged.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
    let token = resolve_at(&staged, other, 0, Duration::from_secs(10)).await.unwrap();
    held.gate.release();
    resume(sleeper);
    eventually("a loser", || (outcomes(sleeper, "SUPERSEDED") == 1.0).then_some(()));
    let refreshed = staged.assert_refreshed().await;
    assert_eq!(refreshed.generation, staged.made.generation + 1, "the loser changed nothing");
    assert_eq!(staged.token().await, token);
    assert_eq!((outcomes(sleeper, "REFRESHED"), outcomes(other, "REFRESHED")), (0.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_replica_that_slept_at_its_commit_finds_it_done() {
    let staged = Staged::start(NONE).await;
    let mut lock = staged.oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
    staged.make_due();
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    staged.until_row("sealed_answer IS NOT NULL");
    eventually("a server at its commit", || (staged.oauth.world.sql(blocked) != "0").then_some(()));
    stop(&staged.oauth.world.server);
    lock.release();
    staged.end_leases();
    let (second, _) = staged.oauth.replica("second");
    staged.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
    let generation = "SELECT generation FROM connections";
    let done = staged.oauth.world.sql(generation);
    resume(&staged.oauth.world.server);
    eventually("a sleeper that is up to date", || {
        (outcomes(&staged.oauth.world.server, "REFRESHED") == 1.0).then_some(())
    });
    assert_eq!(staged.oauth.world.sql(generation), done);
    assert_eq!(outcomes(&second, "REFRESHED"), 1.0);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

/// A call that is held, and whether the first server makes it.
struct HeldCall {
    gate: keyholder_testkit::provider::Gate,
    first: bool,
}

/// Lets one of two servers begin a refresh.
fn hold_in_one_of(staged: &Staged, second: Server) -> (HeldCall, Server) {
    let gate = staged.hold(Stage::After);
    // Only whoever asks has a connection to the provider: its pages and its test were the first server's.
    let port = staged.oauth.provider.address().port();
    let first = eventually("whoever asks", || {
        let has = |server: &Server| connections_to(server, port);
        match (has(&staged.oauth.world.server), has(&second)) {
            (_, true) => Some(false),
            (true, false) => Some(true),
            _ => None,
        }
    });
    (HeldCall { gate, first }, second)
}

/// Whether a process has a connection to a port.
fn connections_to(server: &Server, port: u16) -> bool {
    let process = PathBuf::from(format!("/proc/{}", server.child.id()));
    let table = std::fs::read_to_string(process.join("net/tcp")).unwrap();
    let wanted = format!(":{port:04X}");
    let inodes: BTreeSet<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(2).is_some_and(|to| to.ends_with(&wanted)) && fields[3] == "01")
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let files = std::fs::read_dir(process.join("fd")).unwrap();
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .any(|link| inodes.contains(&*link.to_string_lossy()))
}

// === The end of a process ===

#[tokio::test(flavor = "multi_thread")]
async fn f31_a_process_that_is_told_to_stop_commits_what_is_in_flight() {
    let mut staged = Staged::start(NONE).await;
    let gate = staged.hold(Stage::After);
    staged.oauth.world.server.signal("TERM");
    staged.oauth.world.server.wait_for_log("draining");
    gate.release();
    let status = eventually("the end", || staged.oauth.world.server.child.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(staged.row("done_attempt_id IS NOT NULL AND attempt_id IS NULL"), "t", "it was committed");
    assert_eq!(staged.asked(), 1);
    staged.start_again("next");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_no_refresh_begins_after_a_process_was_told_to_stop() {
    let mut staged = Staged::start(NONE).await;
    let bob = staged.oauth.connect("user:bob").await;
    let bob = bob.connection_id.trim_start_matches("conn_").to_owned();
    staged.oauth.world.sql(&format!(
        "UPDATE refreshes SET due_time = clock_timestamp() + interval '1 day' WHERE connection_id = '{bob}'"
    ));
    let gate = staged.oauth.provider.hold(Stage::After);
    let due = |which: &str| {
        format!("UPDATE refreshes SET due_time = clock_timestamp() WHERE connection_id {which}")
    };
    staged.oauth.world.sql(&due(&format!("<> '{bob}'")));
    gate.held().await;
    staged.oauth.world.server.signal("TERM");
    staged.oauth.world.server.wait_for_log("draining");
    staged.oauth.world.sql(&due(&format!("= '{bob}'")));
    // It is due while the process is still at the other one.
    eventually("a moment that has come", || {
        (staged.row("count(*) FILTER (WHERE due_time <= clock_timestamp())") == "1").then_some(())
    });
    gate.release();
    let status = eventually("the end", || staged.oauth.world.server.child.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(staged.asked(), 1, "the one in flight");
    assert_eq!(staged.row("count(*) FILTER (WHERE attempt_id IS NOT NULL)"), "0");
    staged.start_again("next");
    eventually("the other one", || (staged.asked() == 2).then_some(()));
}

// === Roles ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_refreshes_nothing_and_is_served_by_a_refresher_alone() {
    let mut staged = Staged::start(NONE).await;
    staged.power_cut();
    let url = staged.oauth.world.postgres.url(DATABASE);
    let world = &staged.oauth.world;
    let state = [("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "of-the-server")];
    let mut server = serve(world, "server", &url, &["--roles", "server"], &state);
    server.wait_for_log("serving");
    assert!(!world.dir.path().join("of-the-server").exists(), "it needs none");
    staged.end_access_token();
    staged.make_due();
    let refused = resolve_at(&staged, &server, 0, Duration::from_secs(3)).await;
    assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    assert_eq!(staged.asked(), 0);

    let mut refresher = serve(world, "refresher", &url, &["--roles", "refresher"], &[]);
    let listening = refresher.wait_for_log("listening");
    assert!(listening["grpc"].is_null() && listening["web"].is_null(), "{listening}");
    assert!(listening["admin"].is_string());
    let first = resolve_at(&staged, &server, 0, Duration::from_secs(15)).await.unwrap();
    assert_eq!(staged.asked(), 1);
    assert_eq!((outcomes(&server, "REFRESHED"), outcomes(&refresher, "REFRESHED")), (0.0, 1.0));
    // And again, for somebody who needs more life than is left.
    staged.end_access_token();
    let second = resolve_at(&staged, &server, 0, Duration::from_secs(15)).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(staged.oauth.provider.account_of(&second).as_deref(), Some("ada"));
    assert_eq!(staged.asked(), 2);

    refresher.signal("TERM");
    let status = eventually("the end", || refresher.child.try_wait().unwrap());
    assert!(status.success());
}

// === The way to the database ===

#[tokio::test(flavor = "multi_thread")]
async fn f44_a_way_to_the_database_that_breaks_while_the_provider_is_asked_loses_nothing() {
    let (staged, proxy) = through_a_proxy(NONE).await;
    let gate = staged.hold(Stage::After);
    proxy.silence();
    gate.release();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f44_a_way_to_the_database_that_breaks_again_and_again_heals_by_itself() {
    let (staged, proxy) = through_a_proxy(STATIC).await;
    let mut done = staged.row("done_attempt_id");
    for _ in 0..4 {
        staged.make_due();
        proxy.silence();
        done = eventually("a refresh after all", || {
            let now = staged.row("done_attempt_id");
            (now != done && staged.row("attempt_id IS NULL") == "t").then_some(now)
        });
    }
    let counts = staged.oauth.provider.counts();
    assert_eq!(counts.replays, 0);
    let now = staged.now().await;
    assert_eq!(
        (now.state(), now.refresh.unwrap().state()),
        (v1::ConnectionState::Active, v1::RefreshState::Scheduled)
    );
    staged.token().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f44_i3_a_change_that_is_never_answered_does_not_stop_whoever_takes_over() {
    let mut staged = Staged::start(STATIC).await;
    // Somebody has kept an answer and died.
    let mut lock = staged.oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
    staged.make_due();
    staged.until_row("sealed_answer IS NOT NULL");
    staged.power_cut();
    staged.end_leases();
    // Whoever takes over waits for the organization, and will never hear that it has it.
    let (url, proxy) = proxied(&staged);
    staged.oauth.world.server = staged.oauth.world.spawn("through-the-proxy", &url);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    staged.until_row("fence = 2");
    eventually("a server that waits", || (staged.oauth.world.sql(waiting) != "0").then_some(()));
    proxy.silence();
    lock.release();
    staged.end_leases();
    staged.until_row("fence = 3");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

/// A connection whose only server reaches the database through a proxy.
async fn through_a_proxy(class: super::staged::Class) -> (Staged, FaultProxy) {
    let mut staged = Staged::start(class).await;
    staged.power_cut();
    let (url, proxy) = proxied(&staged);
    let mut server = staged.oauth.world.spawn("through-the-proxy", &url);
    server.wait_for_log("serving");
    staged.oauth.world.server = server;
    (staged, proxy)
}

/// A proxy in front of the database, and the URL through it.
fn proxied(staged: &Staged) -> (String, FaultProxy) {
    let url = staged.oauth.world.postgres.url(DATABASE);
    let proxy = FaultProxy::start(&url);
    (proxy.url(&url), proxy)
}

// === Clocks ===

/// A library that shifts the wall clock of a process, and no other clock.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *skew = getenv("CLOCK_SKEW");
    if (skew && clock == CLOCK_REALTIME) time->tv_sec += atol(skew);
    return result;
}
"#;

/// Starts a server whose clock is so many seconds off, and makes sure that it is.
fn skewed(staged: &Staged, name: &str, seconds: i64) -> Server {
    let dir = staged.oauth.world.dir.path();
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    if !library.exists() {
        std::fs::write(&source, CLOCK).unwrap();
        let compiling = ["-shared", "-fPIC", "-o"];
        let compiled = Command::new("cc").args(compiling).args([&library, &source]).arg("-ldl").status();
        assert!(compiled.unwrap().success(), "whoever can link Rust has a C compiler");
    }
    let server = staged.oauth.world.server_with(
        name,
        &[
            ("KEYHOLDER_WEB__LISTEN", &format!("127.0.0.1:{}", free_port())),
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("CLOCK_SKEW", &seconds.to_string()),
        ],
    );
    let told = log_lines(&server.log)[0]["timestamp"].as_str().unwrap().to_owned();
    let format = &time::format_description::well_known::Rfc3339;
    let told = time::OffsetDateTime::parse(&told, format).unwrap();
    let off = (told - SystemClock.now()).whole_seconds();
    assert!((off - seconds).abs() < 60, "the clock of {name} is {off} seconds off");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_a_replica_whose_clock_is_wrong_refreshes_once_and_plans_the_next_by_the_databases_clock() {
    for seconds in [-300, 300] {
        let mut staged = Staged::start(NONE).await;
        staged.power_cut();
        staged.oauth.world.server = skewed(&staged, "skewed", seconds);
        staged.make_due();
        staged.assert_refreshed().await;
        let asked = staged.oauth.provider.refreshes();
        assert_eq!(asked.len(), 1);
        let answered = asked[0].answered.unwrap().unix_timestamp();
        let ends = staged.now().await.tokens.unwrap().expire_time.unwrap().seconds;
        assert!((answered + 3_540..=answered + 3_601).contains(&ends), "{} s off", ends - answered - 3_600);
        let planned = "due_time BETWEEN clock_timestamp() + interval '30 minutes'
                           AND clock_timestamp() + interval '50 minutes'
                       AND earliest_time < clock_timestamp() + interval '61 seconds'
                       AND last_success_time <= clock_timestamp() AND last_attempt_time <= clock_timestamp()";
        assert_eq!(staged.row(planned), "t", "nobody refreshes in a loop");
        staged.token().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_a_replica_whose_clock_is_ahead_takes_over_no_lease_that_runs() {
    let staged = Staged::start(NONE).await;
    let gate = staged.hold(Stage::After);
    // A lease that lasts for as long as this test takes, and is over by the other's clock.
    staged
        .oauth
        .world
        .sql("UPDATE refreshes SET lease_expire_time = clock_timestamp() + interval '2 minutes'");
    let ahead = skewed(&staged, "ahead", 300);
    let epoch = staged.oauth.world.sql("SELECT epoch FROM installation");
    eventually("a replica that has looked", || {
        (number(&ahead, "keyholder_refreshes_under_way") == 1.0
            && staged.oauth.world.sql("SELECT epoch FROM installation") != epoch)
            .then_some(())
    });
    assert_eq!(staged.row("fence = 1 AND attempt_id IS NOT NULL"), "t");
    gate.release();
    staged.assert_refreshed().await;
    assert_eq!((staged.asked(), outcomes(&ahead, "AMBIGUOUS")), (1, 0.0));
    assert_eq!(times_logged(&ahead, "a refresh was interrupted; it is not known what the provider did"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_i4_a_replica_whose_clock_is_behind_releases_nothing_that_has_ended() {
    let staged = Staged::start_with(STATIC, Setup::default()).await;
    let behind = skewed(&staged, "behind", -300);
    let before = resolve_at(&staged, &behind, 0, Duration::from_secs(10)).await.unwrap();
    staged.oauth.provider.spoil(1_000, Stage::Before, Effect::Status(500));
    staged.end_access_token();
    let refused = resolve_at(&staged, &behind, 0, Duration::from_secs(3)).await;
    assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    staged.oauth.provider.forgive();
    staged.make_due();
    staged.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
    let after = resolve_at(&staged, &behind, 0, Duration::from_secs(15)).await.unwrap();
    assert_ne!(before, after);
}

// === Processes that are not configured alike ===

const UNFIT: &str =
    "this process is not configured for connections that are to be refreshed; it leaves them to others";

/// Lets a process that lacks something claim what is due, and then one that lacks nothing.
async fn assert_left_to_others(setup: Setup<'_>, lacking: &[(&str, &str)], reason: &str) {
    let mut staged = Staged::start_with(NONE, setup).await;
    staged.power_cut();
    let world = &staged.oauth.world;
    let url = world.postgres.url(DATABASE);
    let mut unfit = serve(world, "unfit", &url, &["--roles", "refresher"], lacking);
    staged.make_due();
    assert_eq!(unfit.wait_for_log(UNFIT)["reason"], reason);
    staged.until_row("attempt_id IS NULL AND due_time IS NOT NULL");
    assert_eq!(world.sql("SELECT count(*) FROM provider_clients WHERE quarantine IS NOT NULL"), "0");
    staged.start_again("fit");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(times_logged(&unfit, UNFIT), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_definition_of_a_provider_leaves_its_connections_to_others() {
    let nothing = tempfile::tempdir().unwrap();
    let lacking = [("KEYHOLDER_CATALOG__DIRECTORY", nothing.path().to_str().unwrap())];
    let client = ClientFrom::Variables(&CLIENT_VARIABLES);
    assert_left_to_others(Setup { client, ..Setup::default() }, &lacking, "PROVIDER_UNKNOWN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_installations_client_leaves_its_connections_to_others() {
    let client = ClientFrom::Variables(&CLIENT_VARIABLES);
    assert_left_to_others(Setup { client, ..Setup::default() }, &[], "CLIENT_MISSING").await;
}

/// How often what is to be refreshed is looked at between two looks of the process at the installation.
fn looks(staged: &Staged) -> i64 {
    let world = &staged.oauth.world;
    let looked = || -> i64 {
        let scans = "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'refreshes'";
        world.sql(scans).parse().unwrap()
    };
    let epoch = || -> i64 { world.sql("SELECT epoch FROM installation").parse().unwrap() };
    let from = epoch();
    eventually("a look", || (epoch() > from).then_some(()));
    let before = looked();
    eventually("the next look", || (epoch() > from + 1).then_some(()));
    looked() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_does_not_ask_again_and_again_for_what_it_leaves_to_others() {
    let client = ClientFrom::Variables(&CLIENT_VARIABLES);
    let mut staged = Staged::start_with(NONE, Setup { client, ..Setup::default() }).await;
    staged.power_cut();
    let world = &staged.oauth.world;
    let mut unfit = serve(world, "unfit", &world.postgres.url(DATABASE), &["--roles", "refresher"], &[]);
    unfit.wait_for_log("listening");
    let idle = looks(&staged);
    staged.make_due();
    unfit.wait_for_log(UNFIT);
    staged.until_row("ready");
    let unfit = looks(&staged);
    assert!(unfit < 6 * idle, "{unfit} times, and {idle} with nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_left_for_a_process_that_can_read_it() {
    let client = ClientFrom::Variables(&CLIENT_VARIABLES);
    let mut staged = Staged::start_with(NONE, Setup { client, ..Setup::default() }).await;
    // Somebody has kept an answer, and died when its attempt counted no more.
    let mut lock = staged.oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
    staged.make_due();
    staged.until_row("sealed_answer IS NOT NULL");
    staged.power_cut();
    lock.release();
    staged.oauth.world.sql(
        "INSERT INTO late_answers (organization_id, connection_id, attempt_id, generation, sealed_answer, seen)
             SELECT organization_id, connection_id, attempt_id, attempt_generation, sealed_answer, false FROM refreshes;
         UPDATE refreshes SET attempt_id = NULL, attempt_time = NULL, attempt_generation = NULL, sealed_answer = NULL,
             lease_expire_time = NULL, ambiguous_time = clock_timestamp()",
    );
    let nothing = tempfile::tempdir().unwrap();
    let lacking = [("KEYHOLDER_CATALOG__DIRECTORY", nothing.path().to_str().unwrap())];
    let world = &staged.oauth.world;
    let _unfit = serve(world, "unfit", &world.postgres.url(DATABASE), &["--roles", "refresher"], &lacking);
    // It has claimed it for the answer, and given it back.
    staged.until_row("fence >= 2 AND attempt_id IS NULL");
    assert_eq!(world.sql("SELECT count(*) FILTER (WHERE NOT seen) FROM late_answers"), "1");
    staged.start_again("fit");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

const CLIENT_VARIABLES: [(&str, &str); 2] =
    [("KEYHOLDER_OAUTH_DEMO_CLIENT_ID", CLIENT.0), ("KEYHOLDER_OAUTH_DEMO_CLIENT_SECRET", CLIENT.1)];
