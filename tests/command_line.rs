//! What a person reads when a command cannot do its work: one line that says what to do.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use crate::harness::{DATABASE, World, binary, root};

fn keyholder(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let url = world.postgres.url(DATABASE);
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(world.dir.path()).env("DATABASE_URL", url);
    command.envs(environment.iter().copied()).output().unwrap()
}

/// The one line on standard error, of a command that failed.
#[track_caller]
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_owned()
}

#[test]
fn says_what_is_wrong_in_one_line() {
    let world = World::start();
    let file = world.dir.path().join("keyholder.toml");
    let good = fs::read_to_string(&file).unwrap();
    let with = |name: &str, text: &str| {
        fs::write(world.dir.path().join(name), text).unwrap();
        name.to_owned()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("listen = \"{}\"", taken.local_addr().unwrap());
    with("short.key", "c2hvcnQ=");
    let restricted = fs::metadata(world.dir.path().join("encryption.key")).unwrap().permissions();
    fs::set_permissions(world.dir.path().join("short.key"), restricted).unwrap();
    with("open.key", "S2V5aG9sZGVyLXRlc3Qta2V5LTMyLWJ5dGVzLWxvbmc=");
    let cases = [
        ("missing.toml".to_owned(), "missing.toml"),
        (with("broken.toml", "[grpc"), "broken.toml"),
        (with("unknown.toml", &format!("{good}\n[telemetry]\nx = 1\n")), "telemetry"),
        (with("type.toml", &good.replacen(r#"listen = "127.0.0.1:0""#, "listen = 7", 1)), "grpc.listen"),
        (with("role.toml", &good.replace(r#"roles = ["auditor"]"#, r#"roles = ["king"]"#)), "king"),
        (with("nokey.toml", &good.replace(r#"primary = "encryption.key""#, "")), "KEYHOLDER_ENCRYPTION_KEY"),
        (with("keyfile.toml", &good.replace("encryption.key", "absent.key")), "absent.key"),
        (with("shortkey.toml", &good.replace("encryption.key", "short.key")), "32 random bytes"),
        (with("openkey.toml", &good.replace("encryption.key", "open.key")), "chmod 600"),
        (with("cert.toml", &good.replace("server.pem", "absent.pem")), "absent.pem"),
        (
            with("ca.toml", &good.replace(r#"ca = ["ca.pem"]"#, r#"ca = ["encryption.key"]"#)),
            "encryption.key",
        ),
        (with("mismatch.toml", &good.replace("server-key.pem", "console-key.pem")), "console-key.pem"),
        (with("port.toml", &good.replacen(r#"listen = "127.0.0.1:0""#, &address, 1)), "cannot listen on"),
        (with("providers.toml", &format!("{good}\n[catalog]\ndirectory = \"absent\"\n")), "absent"),
    ];
    world.certificate("console");
    for (file, expected) in cases {
        let line = complaint(&keyholder(&world, &["serve", "--config", &file], &[]));
        assert!(line.starts_with("keyholder: ") && line.contains(expected), "{file}: {line}");
    }
}

#[test]
fn says_what_is_wrong_with_the_database() {
    let world = World::start();
    let unreachable = "postgres://keyholder:hunter2-canary@127.0.0.1:1/keyholder";
    for command in ["serve", "migrate", "check-config"] {
        let line = complaint(&keyholder(&world, &[command], &[("DATABASE_URL", unreachable)]));
        assert!(line.contains("cannot be reached") && !line.contains("canary"), "{line}");
        let line = complaint(&keyholder(&world, &[command], &[("DATABASE_URL", "nonsense canary")]));
        assert!(line.contains("not a valid postgres:// URL") && !line.contains("canary"), "{line}");
        let line = complaint(&keyholder(&world, &[command], &[("DATABASE_URL", "")]));
        assert!(line.contains("DATABASE_URL"), "{line}");
    }
    world.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
               VALUES (9999, 'from the future', true, '', 0)",
    );
    for command in ["serve", "migrate", "check-config"] {
        let line = complaint(&keyholder(&world, &[command], &[]));
        assert!(line.contains("newer than this binary"), "{line}");
    }
}

#[test]
fn migrating_and_checking_say_that_all_is_well() {
    let world = World::start();
    let output = keyholder(&world, &["migrate"], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "the database schema is up to date\n");
    let output = keyholder(&world, &["check-config"], &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("spiffe://test.example/gateway is resolver"), "{text}");
}

#[test]
fn a_variable_overrides_the_file() {
    let world = World::start();
    let output = keyholder(&world, &["check-config"], &[("KEYHOLDER_LOG__LEVEL", "loud")]);
    let line = complaint(&output);
    assert!(line.contains("loud"), "{line}");
    let output = keyholder(&world, &["check-config"], &[("KEYHOLDER_GPRC__LISTEN", "127.0.0.1:1")]);
    assert!(complaint(&output).contains("gprc"), "a misspelt variable is not passed over");
    let output = keyholder(&world, &["check-config"], &[("KEYHOLDER_DATABASE_URL", "x")]);
    assert!(complaint(&output).contains("KEYHOLDER_DATABASE_URL"), "nor is one with an underscore too few");
    let output = keyholder(&world, &["check-config"], &[("KEYHOLDER_DATABASE__MAX_CONNECTIONS", "1")]);
    assert!(complaint(&output).contains("max_connections"));
    let key = "c3VycHJpc2Ugc3VycHJpc2Ugc3VycHJpc2Ugc3VycHI=";
    assert!(keyholder(&world, &["check-config"], &[("KEYHOLDER_ENCRYPTION_KEY", key)]).status.success());
    let line = complaint(&keyholder(&world, &["check-config"], &[("KEYHOLDER_ENCRYPTION_KEY", "canary")]));
    assert!(line.contains("openssl rand -base64 32") && !line.contains("canary"), "{line}");
}

#[test]
fn provider_definitions_are_linted_in_whole() {
    let good = root().join("crates/catalog/providers");
    let output = Command::new(binary()).args(["providers", "lint"]).arg(&good).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one.yaml"), "id: one\nname: One\nnonsense: 1\n").unwrap();
    fs::write(dir.path().join("two.yaml"), "id: [\n").unwrap();
    let output = Command::new(binary()).args(["providers", "lint"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("one.yaml") && text.contains("nonsense") && text.contains("two.yaml"), "{text}");
}

#[test]
fn whoever_stops_reading_early_makes_no_command_panic() {
    let mut listing = Command::new(binary())
        .args(["providers", "schema"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(listing.stdout.take());
    let output = listing.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
