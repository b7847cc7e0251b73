//! F9: the disk of the database is full. Nothing is released that cannot be recorded, no provider is asked for what could not
//! be kept, and all goes on by itself once there is room.
//!
//! The disk is a small file system in memory. Only root may mount one; for anybody else these tests prove nothing, and say so.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use keyholder_testkit::provider::Stage;
use tonic::Code;

use crate::harness::{assert_refused, eventually, http_get, resolve_request};
use crate::refresh::staged::{NONE, Staged, times_logged};

/// A file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one in the data folder of a database, for whoever owns that.
    fn mount(data: &Path, mebibytes: u32) -> Option<Self> {
        let at = data.join("small-disk");
        fs::create_dir(&at).unwrap();
        let owner = fs::metadata(data).unwrap();
        let options = format!("size={mebibytes}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        eprintln!("not proved: no file system can be mounted here");
        None
    }

    fn fill(&self) {
        let mut ballast = fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[1; 4_096]).is_ok() {}
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Postgres may have files open there.
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// How many releases are on record.
fn recorded(staged: &Staged) -> usize {
    let releases = "SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'";
    staged.oauth.world.sql(releases).parse().unwrap()
}

/// That the credential can be had, and that there is an event for every release.
async fn assert_released(staged: &Staged, released: usize) {
    eventually("the server's own opinion", || {
        (http_get(staged.oauth.world.server.admin, "/readyz").0 == 200).then_some(())
    });
    staged.token().await;
    assert_eq!(recorded(staged), released + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_on_a_full_disk_nothing_is_released_unrecorded_and_no_provider_is_asked() {
    let mut staged = Staged::start(NONE).await;
    staged.power_cut();
    let postgres = &staged.oauth.world.postgres;
    let Some(disk) = SmallDisk::mount(postgres.data_dir(), 64) else { return };
    let place = disk.0.display();
    postgres.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{place}'")).unwrap();
    eventually("nobody in the database", || {
        postgres.psql("postgres", "ALTER DATABASE keyholder SET TABLESPACE small").ok()
    });
    staged.start_again("small");
    let mut released = recorded(&staged);
    let world = &staged.oauth.world;
    // A refresh is due when there is no room any more for as much as its claim. What was written there before stays: somebody
    // may still read it.
    let reader = world.lock("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM refreshes");
    disk.fill();
    let filled = "DO $$ BEGIN LOOP UPDATE refreshes SET due_time = clock_timestamp() + interval '3 seconds'; COMMIT; END LOOP; END $$";
    let refused = world.postgres.psql(crate::harness::DATABASE, filled).unwrap_err();
    assert!(format!("{refused:?}").contains("No space left on device"), "{refused:?}");

    let mut grants = world.grants("gateway");
    let refused = loop {
        match grants.resolve_credential(resolve_request("user:ada", &staged.made.connection_id)).await {
            Ok(_) => released += 1,
            refused => break refused,
        }
    };
    assert_refused(refused, Code::Unavailable, "AUDIT_UNAVAILABLE");
    let unclaimed = "what is to be refreshed could not be claimed; trying again";
    eventually(unclaimed, || (times_logged(&world.server, unclaimed) >= 3).then_some(()));
    assert_eq!(staged.asked(), 0, "what comes of it could not be kept");
    assert_eq!(recorded(&staged), released);

    disk.clear();
    drop(reader);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_released(&staged, released + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_an_answer_that_comes_while_the_log_of_the_database_has_no_room_is_not_lost() {
    let mut staged = Staged::start(NONE).await;
    let Some(disk) = SmallDisk::mount(staged.oauth.world.postgres.data_dir(), 128) else { return };
    let postgres = &mut staged.oauth.world.postgres;
    postgres.kill_hard().unwrap();
    let (log, moved) = (postgres.data_dir().join("pg_wal"), disk.0.join("pg_wal"));
    assert!(Command::new("cp").arg("-a").args([&log, &moved]).status().unwrap().success());
    fs::remove_dir_all(&log).unwrap();
    symlink(&moved, &log).unwrap();
    postgres.restart().unwrap();
    let released = recorded(&staged);

    let gate = staged.hold(Stage::After);
    disk.fill();
    let world = &staged.oauth.world;
    eventually("a database that gives up", || {
        let next = "SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()";
        world.postgres.psql(crate::harness::DATABASE, next).is_err().then_some(())
    });
    gate.release();
    eventually("a spooled answer", || (staged.spooled().len() == 1).then_some(()));
    let ask = resolve_request("user:ada", &staged.made.connection_id);
    let refused = world.grants("gateway").resolve_credential(ask).await;
    assert_refused(refused, Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(http_get(world.server.admin, "/readyz").0, 503);

    disk.clear();
    // It gave up for good, as Postgres does: somebody starts it again.
    staged.oauth.world.postgres.kill_hard().ok();
    staged.oauth.world.postgres.restart().unwrap();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_released(&staged, released + 1).await;
}
