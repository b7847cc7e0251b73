//! The crash rig: processes that die at every point of a refresh, and a checker that compares what the
//! providers saw with what is left.
//!
//! `make crash` runs it for long. `CRASH_KILLS` says how many processes are killed, and `CRASH_SEED` what
//! is chosen: the same seed does the same things in the same order, but not at the same moments. With
//! `CRASH_TRACE=1` it says what it does.

mod checker;
mod class;
mod dice;
mod fleet;
mod oidc;
mod rig;

use std::time::Instant;

use keyholder_domain::{Clock as _, SystemClock};
use rig::{Fault, Rig};

/// How many processes are killed if nobody says it, and of how many connections of each class.
const KILLS: usize = 60;
const PER_CLASS: usize = 12;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// Everything that can be done, once for each class where that makes a difference.
fn deck() -> Vec<Fault> {
    let mut deck = vec![
        Fault::PowerCut,
        Fault::Claimed,
        Fault::Claimed,
        Fault::Uncommitted,
        Fault::Uncommitted,
        Fault::Committing,
        Fault::Committing,
        Fault::CommittingAndSevered,
        Fault::AtOidc,
        Fault::CommitSevered,
        Fault::Pause,
        Fault::PauseClaimed,
        Fault::Sever,
        Fault::Sever,
        Fault::RestartPostgres,
        Fault::RestartPostgres,
        Fault::SpoilOidc,
    ];
    deck.extend([Fault::Kill; 20]);
    for class in 0..4 {
        deck.extend([
            Fault::Unheard(class),
            Fault::HeardLater(class),
            Fault::Unanswered(class),
            Fault::Unkept(class),
            Fault::UnkeptAndSevered(class),
            Fault::Spooled(class),
            Fault::PauseInCall(class),
            Fault::Spoil(class),
            Fault::Spoil(class),
        ]);
    }
    deck
}

fn say(line: &str) {
    eprintln!("{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_f2_f3_f10_f27_processes_that_die_at_any_point_lose_no_token_and_show_none_twice() {
    let seed = number("CRASH_SEED")
        .unwrap_or_else(|| u64::try_from(SystemClock.now().unix_timestamp_nanos() % 1_000_000_007).unwrap());
    let kills = number("CRASH_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    say(&format!("crash: CRASH_SEED={seed} CRASH_KILLS={kills}"));
    let started = Instant::now();
    // A failure anywhere says how to do it again.
    let again = Again(seed, kills);
    let mut rig = Rig::start(seed, PER_CLASS).await;
    let mut deck_left = Vec::new();
    let mut faults = 0_usize;
    while rig.fleet.kills < kills {
        if deck_left.is_empty() {
            deck_left = deck();
            rig.dice.shuffle(&mut deck_left);
        }
        rig.strike(deck_left.pop().unwrap());
        faults += 1;
        if faults.is_multiple_of(8) {
            rig.operate();
            rig.replenish().await;
        }
    }
    rig.wake();
    say(&format!("crash: {} kills after {:.0?}; healing", rig.fleet.kills, started.elapsed()));
    rig.heal().await;
    rig.prove();
    say(&format!("crash: healed after {:.0?}", started.elapsed()));
    let found = checker::check(&mut rig).await;
    for (fault, (struck, missed)) in &rig.struck {
        say(&format!("crash: {fault:24} {struck:5} times, {missed} not reached"));
    }
    // A short run has too few tries for a point that is hard to reach.
    let unreached: Vec<_> = rig.struck.iter().filter(|(_, (struck, _))| *struck == 0).collect();
    assert!(kills < 500 || unreached.is_empty(), "never reached: {unreached:?}");
    for line in &found.report {
        say(&format!("crash: {line}"));
    }
    say(&format!("crash: {} kills, {} times an operator let a client go on", rig.fleet.kills, rig.resumed));
    assert!(found.wrong.is_empty(), "CRASH_SEED={seed}\n{}\n{}", found.wrong.join("\n"), rig.logs());
    drop(again);
}

/// Says the seed when a test fails.
struct Again(u64, usize);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("crash: again with CRASH_SEED={} CRASH_KILLS={}", self.0, self.1));
        }
    }
}
