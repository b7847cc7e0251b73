//! A database of the past, or a copy: no refresh token of it is shown until an operator has looked.

use std::fs;
use std::process::Command;

use keyholder_proto::v1::{self, RefreshState};
use keyholder_testkit::postgres::PrivatePostgres;
use keyholder_testkit::provider::{Outcome, Provider, Reuse};
use tonic::Code;

use super::staged::{NONE, STATIC, Staged, number, serve, times_logged};
use crate::harness::{DATABASE, Server, assert_refused, binary, eventually, log_lines, resolve_request, run};
use crate::oauth::world::{Setup, start};

/// What an operator prints.
fn operator(staged: &Staged, command: &str) -> String {
    let world = &staged.oauth.world;
    run(&binary(), &["refresh", command], world.dir.path(), &world.postgres.url(DATABASE))
}

/// A copy of the database, as a backup takes it.
fn backup(staged: &Staged) -> String {
    let world = &staged.oauth.world;
    let dump = Command::new(world.postgres.bin_dir().join("pg_dump"))
        .arg(world.postgres.url(DATABASE))
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    String::from_utf8(dump.stdout).unwrap()
}

/// Puts a copy in the place of the database, whoever is connected.
fn restore(staged: &Staged, backup: &str) {
    let postgres = &staged.oauth.world.postgres;
    postgres.psql("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)")).unwrap();
    postgres.create_database(DATABASE).unwrap();
    postgres.psql(DATABASE, backup).unwrap();
}

/// Lets the installation run for ten minutes, until a server has seen that.
fn time_passes(staged: &Staged) {
    staged.oauth.world.sql("UPDATE installation SET epoch = epoch + 120");
    let now = staged.oauth.world.sql("SELECT era || ' ' || epoch FROM installation");
    let (era, epoch) = now.split_once(' ').unwrap();
    let (era, epoch): (i64, i64) = (era.parse().unwrap(), epoch.parse().unwrap());
    eventually("a server that has seen how far the database has come", || {
        let seen = fs::read(staged.oauth.world.dir.path().join("state/epoch.json")).ok()?;
        let seen: serde_json::Value = serde_json::from_slice(&seen).ok()?;
        (seen["era"] == era && seen["epoch"].as_i64() >= Some(epoch)).then_some(())
    });
}

/// That a server says loudly why nothing is refreshed.
fn assert_frozen(server: &mut Server, reason: &str) {
    let said = eventually("a server that is frozen", || {
        let lines = log_lines(&server.log);
        lines.into_iter().find(|line| line["reason"] == reason && line["level"] == "ERROR")
    });
    assert!(said["message"].as_str().unwrap().contains("keyholder refresh release"), "{said}");
    eventually("a metric that says so", || (number(server, "keyholder_refresh_frozen") == 1.0).then_some(()));
}

/// That nothing is frozen after whoever guards has looked: by the epoch, which grows only then.
fn assert_goes_on(staged: &Staged) {
    let epoch = staged.oauth.world.sql("SELECT epoch FROM installation");
    eventually("an installation that comes further", || {
        (staged.oauth.world.sql("SELECT epoch FROM installation") != epoch).then_some(())
    });
    assert_eq!(staged.oauth.world.sql("SELECT frozen_time IS NULL FROM installation"), "t");
    assert!(operator(staged, "status").contains("Refreshing is on."));
}

/// Lets the connections be refreshed, and waits until all were.
fn refresh_all(staged: &Staged, number: usize) {
    let before = staged.asked();
    staged.make_due();
    eventually("the refreshes", || (staged.asked() == before + number).then_some(()));
    staged.until_row("bool_and(attempt_id IS NULL AND NOT ready)");
}

async fn connect_at(staged: &Staged, provider_id: &str, owner: &str) -> v1::Connection {
    let mut request = start(owner);
    request.provider_id = provider_id.into();
    let begun = staged.oauth.begin_as(request).await;
    staged.oauth.consent(&begun).await;
    let done = staged.oauth.authorization(&begun).await;
    staged.oauth.connection(&done.connection_id).await
}

/// Asks as the owner for a token that lives longer than any.
async fn resolve_for_long(
    staged: &Staged,
    made: &v1::Connection,
) -> Result<v1::ResolveCredentialResponse, tonic::Status> {
    let mut request = resolve_request(&made.owner, &made.connection_id);
    request.min_ttl = Some(prost_types::Duration { seconds: 3_599, nanos: 0 });
    Ok(staged.oauth.world.grants("gateway").resolve_credential(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_after_a_restore_nothing_but_one_connection_of_each_class_is_tried_until_an_operator_has_looked()
{
    let other = Provider::start(std::sync::Arc::new(keyholder_domain::SystemClock)).unwrap();
    other.behave(|manners| manners.reuse = Reuse::Static);
    let mut staged = Staged::start_with(NONE, Setup { other: Some(&other), ..Setup::default() }).await;
    let file = staged.oauth.world.dir.path().join("providers/other.yaml");
    let definition = fs::read_to_string(&file).unwrap();
    fs::write(&file, definition.replace(NONE.recipe, STATIC.recipe)).unwrap();
    staged.power_cut();
    staged.start_again("second");
    let bob = staged.oauth.connect("user:bob").await;
    let eve = connect_at(&staged, "other", "user:eve").await;
    connect_at(&staged, "other", "user:mallory").await;
    let backup = backup(&staged);
    refresh_all(&staged, 2);
    time_passes(&staged);
    let (asked, asked_other) = (staged.asked(), other.refreshes().len());
    assert_eq!((asked, asked_other), (2, 2));

    staged.power_cut();
    restore(&staged, &backup);
    staged.make_due();
    staged.start_again("third");
    assert_frozen(&mut staged.oauth.world.server, "DATABASE_RESTORED");
    let said = "one connection of this reuse class was tried";
    eventually("both probes", || (times_logged(&staged.oauth.world.server, said) == 2).then_some(()));
    let status = operator(&staged, "status");
    assert!(status.contains("FROZEN") && status.contains("DATABASE_RESTORED"), "{status}");
    assert!(status.contains("class none was tried: GRANT_REFUSED"), "{status}");
    assert!(status.contains("class static was tried: REFRESHED"), "{status}");
    assert_eq!((staged.asked(), other.refreshes().len()), (asked + 1, asked_other + 1));

    // What is still good is released; what is not is not asked for.
    let made = if staged.oauth.connection(&bob.connection_id).await.refresh.unwrap().failures > 0 {
        staged.made.clone()
    } else {
        bob.clone()
    };
    staged.oauth.token(&made).await;
    staged.oauth.token(&eve).await;
    let refused =
        assert_refused(resolve_for_long(&staged, &made).await, Code::Unavailable, "REFRESHING_FROZEN");
    assert!(!refused.message().is_empty());
    let request = v1::RefreshConnectionRequest {
        organization_id: crate::harness::ACME.into(),
        connection_id: made.connection_id.clone(),
    };
    let refused = staged.oauth.world.connections().refresh_connection(request).await;
    assert_refused(refused, Code::Unavailable, "REFRESHING_FROZEN");
    let refresh = staged.oauth.connection(&made.connection_id).await.refresh.unwrap();
    assert_eq!(refresh.state(), RefreshState::Frozen);
    // Another replica finds it frozen, too, and tries nothing again.
    let (_fourth, _) = staged.oauth.replica("fourth");
    assert_eq!((staged.asked(), other.refreshes().len()), (asked + 1, asked_other + 1));

    assert!(operator(&staged, "release").contains("refreshing goes on"));
    eventually("the refreshes that were due", || {
        (staged.asked() >= asked + 2 && other.refreshes().len() >= asked_other + 2).then_some(())
    });
    assert_goes_on(&staged);
    let good = |outcome: &Outcome| matches!(outcome, Outcome::Issued { .. });
    assert!(other.refreshes().iter().all(|refreshed| good(&refreshed.outcome)), "nothing was lost there");
    assert!(operator(&staged, "release").contains("was not frozen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_a_restore_under_a_running_server_is_noticed_and_so_is_the_next_one() {
    let mut staged = Staged::start(STATIC).await;
    // The tokens of the backup are due in an hour.
    let backup = backup(&staged);
    time_passes(&staged);
    restore(&staged, &backup);
    assert_frozen(&mut staged.oauth.world.server, "DATABASE_RESTORED");
    assert!(operator(&staged, "release").contains("refreshing goes on"));
    assert_goes_on(&staged);
    refresh_all(&staged, 1);
    time_passes(&staged);

    let frozen = "refreshing is frozen: the database is older than what was seen of it: it was restored from \
                  a backup; look at keyholder refresh status, then run keyholder refresh release";
    assert_eq!(times_logged(&staged.oauth.world.server, frozen), 1);
    restore(&staged, &backup);
    eventually("a server that is frozen again", || {
        (times_logged(&staged.oauth.world.server, frozen) == 2).then_some(())
    });
    assert!(operator(&staged, "status").contains("DATABASE_RESTORED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_a_restore_under_a_running_server_shows_no_token_of_the_past_but_the_probes() {
    let mut staged = Staged::start(NONE).await;
    for person in 1..6 {
        staged.oauth.connect(&format!("user:{person}")).await;
    }
    let backup = backup(&staged);
    refresh_all(&staged, 6);
    time_passes(&staged);
    let asked = staged.asked();
    // Ready in another place, so that it is there at once, and a day old: every connection in it is due.
    let postgres = &staged.oauth.world.postgres;
    postgres.create_database("ready").unwrap();
    postgres.psql("ready", &backup).unwrap();
    postgres.psql("ready", "UPDATE refreshes SET due_time = clock_timestamp()").unwrap();
    let swap = format!("DROP DATABASE {DATABASE} WITH (FORCE); ALTER DATABASE ready RENAME TO {DATABASE}");
    postgres.psql("postgres", &swap).unwrap();
    assert_frozen(&mut staged.oauth.world.server, "DATABASE_RESTORED");
    let said = "one connection of this reuse class was tried";
    eventually("the probe", || (times_logged(&staged.oauth.world.server, said) == 1).then_some(()));
    let shown = staged.asked() - asked;
    assert!(shown <= 1, "{shown} refresh tokens of the past were shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_an_installation_of_another_name_on_a_copy_of_the_database_is_frozen() {
    let setup = Setup { settings: "[refresher]\ncluster = \"prod\"", ..Setup::default() };
    let mut staged = Staged::start_with(NONE, setup).await;
    assert_goes_on(&staged);
    let world = &staged.oauth.world;
    assert_eq!(world.sql("SELECT cluster FROM installation"), "prod");
    world.postgres.create_database("copy").unwrap();
    world.postgres.psql("copy", &backup(&staged)).unwrap();
    world.postgres.psql("copy", "UPDATE refreshes SET due_time = clock_timestamp()").unwrap();
    let url = world.postgres.url("copy");
    let variables =
        [("KEYHOLDER_REFRESHER__CLUSTER", "staging"), ("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "staging")];
    let mut copy = serve(world, "staging", &url, &[], &variables);
    assert_frozen(&mut copy, "OTHER_CLUSTER");
    let asked = "SELECT probes::text FROM installation";
    eventually("the probe", || world.postgres.psql("copy", asked).unwrap().contains("none").then_some(()));
    assert_eq!(staged.asked(), 1, "the probe, and nothing else");
    // The original goes on.
    assert_goes_on(&staged);
    staged.succeed_with("again", &[]);
    assert_goes_on(&staged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_comes_later_is_given_by_an_operator_and_freezes_nobody() {
    let mut staged = Staged::start(STATIC).await;
    assert_goes_on(&staged);
    let world = &staged.oauth.world;
    let name = [("KEYHOLDER_REFRESHER__CLUSTER", "prod")];
    let url = world.postgres.url(DATABASE);
    let mut named = serve(world, "named", &url, &[], &name);
    named.wait_for_log(
        "the database is of an installation without a name; keyholder refresh release gives it this one",
    );
    let installation = "SELECT cluster, frozen_time IS NULL FROM installation";
    assert_eq!(world.sql(installation), "|t");
    assert_goes_on(&staged);
    // Every process has the name now.
    staged.power_cut();
    let world = &staged.oauth.world;
    let output = std::process::Command::new(binary())
        .args(["refresh", "release"])
        .current_dir(world.dir.path())
        .env("DATABASE_URL", &url)
        .envs(name)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        "refreshing goes on; this installation is called prod"
    );
    assert_eq!(world.sql(installation), "prod|t");
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_a_dump_in_another_postgres_is_frozen() {
    let staged = Staged::start(STATIC).await;
    assert_goes_on(&staged);
    let world = &staged.oauth.world;
    let elsewhere = PrivatePostgres::start(&world.dir.path().join("elsewhere")).unwrap();
    elsewhere.create_database(DATABASE).unwrap();
    elsewhere.psql(DATABASE, &backup(&staged)).unwrap();
    let state = [("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "fresh")];
    let mut moved = serve(world, "moved", &elsewhere.url(DATABASE), &[], &state);
    assert_frozen(&mut moved, "DATABASE_MOVED");
    // Released, it is at home there: also for whoever starts next.
    run(&binary(), &["refresh", "release"], world.dir.path(), &elsewhere.url(DATABASE));
    let mut next = serve(world, "next", &elsewhere.url(DATABASE), &[], &state);
    next.wait_for_log("serving");
    let epoch = "SELECT epoch FROM installation";
    let before = elsewhere.psql(DATABASE, epoch).unwrap();
    eventually("an installation that comes further", || {
        (elsewhere.psql(DATABASE, epoch).unwrap() != before).then_some(())
    });
    assert_eq!(elsewhere.psql(DATABASE, "SELECT frozen_time IS NULL FROM installation").unwrap(), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_neither_a_restart_nor_a_new_replica_nor_a_restart_of_postgres_is_a_restore() {
    let mut staged = Staged::start(NONE).await;
    time_passes(&staged);
    staged.power_cut();
    staged.succeed_with("again", &[]);
    assert_goes_on(&staged);
    let state = [("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "fresh")];
    let replica = staged.oauth.world.server_with(
        "replica",
        &[state[0], ("KEYHOLDER_WEB__LISTEN", &format!("127.0.0.1:{}", crate::oauth::world::free_port()))],
    );
    assert_goes_on(&staged);
    staged.oauth.world.postgres.restart().unwrap();
    assert_goes_on(&staged);
    drop(replica);
    refresh_all(&staged, 1);
    staged.assert_refreshed().await;
}
