//! What Postgres was asked, by `pg_stat_statements`.

use std::collections::BTreeMap;

use keyholder_testkit::postgres::PrivatePostgres;
use serde_json::{Value, json};

use crate::Outcome;
use crate::rig::DATABASE;

/// In every statement of our own, so that it does not count.
pub(crate) const OURS: &str = "/* bench */";

/// Statements and the time that they took in Postgres. `BEGIN` and `COMMIT` are statements.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Statements {
    pub(crate) calls: f64,
    pub(crate) milliseconds: f64,
}

impl Statements {
    /// What it is for each of so many.
    pub(crate) fn each(&self, units: f64) -> Self {
        Self { calls: self.calls / units, milliseconds: self.milliseconds / units }
    }
}

/// Begins to count anew.
pub(crate) fn reset(postgres: &PrivatePostgres) -> Outcome<()> {
    postgres.psql(DATABASE, &format!("SELECT {OURS} pg_stat_statements_reset()"))?;
    Ok(())
}

/// What has been asked since.
pub(crate) fn read(postgres: &PrivatePostgres) -> Outcome<Statements> {
    let told = postgres.psql(
        DATABASE,
        &format!(
            "SELECT {OURS} coalesce(sum(calls), 0), coalesce(sum(total_exec_time), 0)
             FROM pg_stat_statements WHERE query NOT LIKE '%{OURS}%'"
        ),
    )?;
    parse(&told).ok_or_else(|| format!("no numbers of statements: {told}").into())
}

fn parse(told: &str) -> Option<Statements> {
    let (calls, milliseconds) = told.trim().split_once('|')?;
    Some(Statements { calls: calls.parse().ok()?, milliseconds: milliseconds.parse().ok()? })
}

/// How often each statement was asked, by its id.
pub(crate) type Calls = BTreeMap<String, f64>;

/// How often each statement has been asked since.
pub(crate) fn calls(postgres: &PrivatePostgres) -> Outcome<Calls> {
    let told = postgres.psql(
        DATABASE,
        &format!("SELECT {OURS} queryid, calls FROM pg_stat_statements WHERE query NOT LIKE '%{OURS}%'"),
    )?;
    let line = |line: &str| {
        let (id, calls) = line.split_once('|')?;
        Some((id.to_owned(), calls.parse().ok()?))
    };
    Ok(told.lines().filter_map(line).collect())
}

/// How many statements are left without those that would have been asked anyway. `idle`: how many those are in a
/// second.
pub(crate) fn beyond(calls: &Calls, idle: &Calls, seconds: f64) -> f64 {
    // Never less than none of a kind: what was asked less often than before says nothing of another statement.
    let left = |(id, calls): (&String, &f64)| (calls - idle.get(id).unwrap_or(&0.0) * seconds).max(0.0);
    calls.iter().map(left).sum()
}

/// What has been asked since, one by one: how often, by unit of work, and how long each took.
pub(crate) fn list(postgres: &PrivatePostgres, units: f64) -> Outcome<Value> {
    let told = postgres.psql(
        DATABASE,
        &format!(
            "SELECT {OURS} calls, total_exec_time / calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
             FROM pg_stat_statements WHERE query NOT LIKE '%{OURS}%' AND calls > {units} / 100
             ORDER BY calls DESC, total_exec_time DESC"
        ),
    )?;
    let line = |line: &str| {
        let mut columns = line.splitn(3, '|');
        let calls: f64 = columns.next()?.parse().ok()?;
        let each: f64 = columns.next()?.parse().ok()?;
        Some(json!({ "calls": calls / units, "milliseconds_each": each, "statement": columns.next()? }))
    };
    Ok(told.lines().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_psql_prints() {
        assert_eq!(parse("12|3.5\n"), Some(Statements { calls: 12.0, milliseconds: 3.5 }));
        assert_eq!(parse("12"), None);
        let each = Statements { calls: 12.0, milliseconds: 3.5 }.each(2.0);
        assert_eq!(each, Statements { calls: 6.0, milliseconds: 1.75 });
    }

    #[test]
    fn what_is_asked_anyway_does_not_count() {
        let calls =
            |calls: &[(&str, f64)]| calls.iter().map(|(id, calls)| ((*id).to_owned(), *calls)).collect();
        let asked: Calls = calls(&[("release", 100.0), ("poll", 3.0), ("both", 30.0)]);
        let idle: Calls = calls(&[("poll", 2.0), ("both", 5.0)]);
        assert_eq!(beyond(&asked, &idle, 2.0), 100.0 + 20.0);
    }
}
