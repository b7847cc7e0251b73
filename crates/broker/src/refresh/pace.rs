//! How fast a client is used. Its provider says that it had too many calls, but seldom how many it may have; so the pace is
//! looked for between one that went well and one that was too fast.
//!
//! Each time that a provider says so costs a pause, in which nothing is refreshed; a pace that is a little too low costs
//! little. So after one that was too fast comes a quarter of the way from the good one, after a good one half of the way to
//! the bad one, and the search ends four hundredths below what was too fast: nearer to it, the first call that comes late
//! is one too many.

use keyholder_store::Pace;

/// Paces no further apart than this are the same.
const NEAR: f64 = 0.96;

/// What is left of a pace that was too fast when nothing is known that went well.
const SLOWER: f64 = 0.8;

/// How a pace grows while nothing is known that was too fast: a little at first, for it began with what went well; and
/// quickly when it turns out to be far from it.
const LITTLE_FASTER: f64 = 1.1;
const FASTER: f64 = 2.0;

/// The lowest pace, a call in ten seconds, and the highest.
const LOWEST: f64 = 0.1;
const HIGHEST: f64 = 10_000.0;

/// The pace of a client that was told for the first time that it had too many calls: nearly what went well within the
/// second before.
pub(super) fn first(seen: f64) -> Pace {
    Pace { rate: (seen * NEAR).max(1.0), good: None, bad: None }
}

/// The pace after one that was too fast.
pub(super) fn slower(pace: Pace) -> Pace {
    let (rate, good) = match pace.good {
        Some(good) if good < pace.rate * NEAR => (good + (pace.rate - good) / 4.0, Some(good)),
        // It went well, or all but, until now: something small has changed, if anything.
        Some(_) => (pace.rate * NEAR, None),
        None => (pace.rate * SLOWER, None),
    };
    Pace { rate: rate.max(LOWEST), good, bad: Some(pace.rate) }
}

/// The pace after one that went well. `calm`: for so long that what was too fast may have changed.
pub(super) fn faster(pace: Pace, calm: bool) -> Pace {
    let good = Some(pace.rate);
    match pace.bad {
        None => {
            let grew = pace.good.is_some_and(|good| good * LITTLE_FASTER < pace.rate * 1.01);
            let more = if grew { FASTER } else { LITTLE_FASTER };
            Pace { rate: (pace.rate * more).min(HIGHEST), good, bad: None }
        }
        Some(bad) if pace.rate < bad * NEAR => {
            Pace { rate: f64::midpoint(pace.rate, bad).min(bad * NEAR), good, bad: Some(bad) }
        }
        Some(_) if calm => Pace { rate: pace.rate / NEAR, good, bad: None },
        Some(bad) => Pace { good, bad: Some(bad), ..pace },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// How a provider counts.
    #[derive(Debug, Clone, Copy)]
    enum Limiter {
        /// So many in each second, or in so many seconds, of the clock.
        Windows(u32, f64),
        /// So many a second, and some more at once.
        Bucket { rate: f64, burst: f64 },
    }

    /// A provider that takes only so many calls.
    struct Provider {
        limiter: Limiter,
        window: u32,
        in_window: u32,
        tokens: f64,
        filled: f64,
    }

    impl Provider {
        fn new(limiter: Limiter) -> Self {
            let tokens = match limiter {
                Limiter::Bucket { burst, .. } => burst,
                Limiter::Windows(..) => 0.0,
            };
            Self { limiter, window: 0, in_window: 0, tokens, filled: 0.0 }
        }

        fn takes(&mut self, now: f64) -> bool {
            match self.limiter {
                Limiter::Windows(number, length) => {
                    let current = (now / length).floor() as u32;
                    if current != self.window {
                        (self.window, self.in_window) = (current, 0);
                    }
                    self.in_window += 1;
                    self.in_window <= number
                }
                Limiter::Bucket { rate, burst } => {
                    self.tokens = f64::min(burst, self.tokens + (now - self.filled) * rate);
                    self.filled = now;
                    let taken = self.tokens >= 1.0;
                    self.tokens -= if taken { 1.0 } else { 0.0 };
                    taken
                }
            }
        }
    }

    /// How long so many calls take at a provider that takes only so many a second, and how often it says so. As the refresher
    /// and its statements do it: claims that come when they come, for what is to be begun until the next; and calls that take
    /// about 15 ms, no two the same. `stalls`: how often a second nothing moves for a while, 30 to 130 ms.
    fn seconds(limiter: Limiter, calls: u32, stalls: f64, seed: u64) -> (f64, u32) {
        const STEP: f64 = 0.005;
        const ARREARS: f64 = 0.02;
        const AHEAD: f64 = 0.05;
        const FULL: f64 = 0.02;
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut provider = Provider::new(limiter);
        let (mut done, mut pauses) = (0, 0);
        let mut pace: Option<Pace> = None;
        let (mut paid, mut pause_end, mut limited_time, mut pace_time) = (0.0_f64, 0.0, -1e9, -1e9_f64);
        let (mut good_time, mut claim_time, mut stall_end) = (-1e9, 0.0, 0.0);
        let mut good: VecDeque<f64> = VecDeque::new();
        // When each was claimed, and when it reaches the provider.
        let mut flying: Vec<(f64, f64)> = Vec::new();
        let mut step = 0_u32;
        while done < calls {
            let now = f64::from(step) * STEP;
            step += 1;
            if chance.random_bool(stalls * STEP) {
                stall_end = now + chance.random_range(0.03..0.13);
            }
            if now < stall_end {
                continue;
            }
            flying.sort_by(|one, other| one.1.total_cmp(&other.1));
            let arrived = flying.partition_point(|(_, end)| *end <= now);
            for (asked, _) in flying.drain(..arrived) {
                good.retain(|time| now - time < 1.0);
                let seen = good.len() as f64;
                if provider.takes(now) {
                    done += 1;
                    good_time = now;
                    good.push_back(now);
                    if let Some(known) = pace {
                        let settled = asked >= pace_time
                            && paid > now + FULL
                            && f64::max(pause_end, pace_time) + f64::max(2.0, 3.0 / known.rate) < now;
                        if settled {
                            (pace, pace_time) = (Some(faster(known, now - limited_time > 120.0)), now);
                        } else if known.bad.is_none() && now - limited_time < 2.0 {
                            pace = Some(Pace { rate: known.rate.max(first(seen).rate), ..known });
                        }
                    }
                } else {
                    let mut wait = 1.0;
                    if asked >= limited_time {
                        if pace.is_some() && good_time <= pace_time {
                            // Nothing went well meanwhile: it is not the pace.
                            wait = f64::min(60.0, 2.0 * (pause_end - limited_time));
                        } else {
                            pace = Some(pace.map_or_else(|| first(seen), slower));
                        }
                        pauses += 1;
                    }
                    limited_time = now;
                    pause_end = f64::max(pause_end, now + wait);
                    pace_time = pause_end;
                    paid = f64::max(paid, pause_end);
                }
            }
            if now < f64::max(pause_end, claim_time) {
                continue;
            }
            claim_time = now + chance.random_range(0.027..0.047);
            let room = 32 - flying.len();
            let start = f64::max(paid, now - ARREARS);
            let number = pace.map_or(room, |pace| {
                if start > now + AHEAD {
                    0
                } else {
                    room.min(1 + ((now + AHEAD - start) * pace.rate) as usize)
                }
            });
            for call in 0..number {
                let begun = pace.map_or(now, |pace| f64::max(now, start + call as f64 / pace.rate));
                flying.push((now, begun + chance.random_range(0.005..0.025)));
            }
            if let Some(pace) = pace {
                paid = start + number as f64 / pace.rate;
            }
        }
        (f64::from(step) * STEP, pauses)
    }

    /// Of several herds that want so many seconds each, how many times as long the one in the middle takes, and its pauses.
    fn median(limiter: Limiter, rate: u32, theory: u32, stalls: f64) -> (f64, u32) {
        let mut herds: Vec<_> = (0..3).map(|seed| seconds(limiter, theory * rate, stalls, seed)).collect();
        herds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (seconds, pauses) = herds[herds.len() / 2];
        (seconds / f64::from(theory), pauses)
    }

    #[test]
    fn f33_a_herd_takes_little_longer_than_its_provider_wants_however_that_counts() {
        for (limiter, rate, theory, calm, shaken) in [
            (Limiter::Windows(200, 1.0), 200, 100, 1.07, 1.1),
            (Limiter::Windows(50, 1.0), 50, 100, 1.07, 1.1),
            (Limiter::Windows(300, 1.0), 300, 100, 1.07, 1.1),
            (Limiter::Bucket { rate: 200.0, burst: 200.0 }, 200, 100, 1.07, 1.1),
            // So few at once that the first time says little of what it takes.
            (Limiter::Bucket { rate: 200.0, burst: 20.0 }, 200, 100, 1.15, 1.2),
            // It is found out late that a minute is over.
            (Limiter::Windows(3_000, 60.0), 50, 400, 1.1, 1.1),
        ] {
            for (stalls, most) in [(0.0, calm), (0.2, shaken)] {
                let (ratio, pauses) = median(limiter, rate, theory, stalls);
                assert!(
                    ratio < most,
                    "{limiter:?}, {stalls} stalls a second: {ratio:.3} times as long, {pauses} pauses"
                );
            }
        }
    }

    #[test]
    fn a_pace_that_was_found_grows_a_little_when_it_may_have_changed_and_twofold_only_after_that() {
        let found = Pace { rate: 96.0, good: Some(96.0), bad: Some(100.0) };
        assert_eq!(faster(found, false), found);
        let rates: Vec<_> = std::iter::successors(Some(found), |pace| Some(faster(*pace, true)))
            .map(|pace| pace.rate.round())
            .take(4)
            .collect();
        assert_eq!(rates, [96.0, 100.0, 110.0, 220.0]);
    }

    #[test]
    fn a_pace_has_a_lowest_and_a_highest() {
        let mut pace = first(0.0);
        for _ in 0..1_000 {
            pace = faster(pace, true);
        }
        assert_eq!(pace.rate, HIGHEST);
        for _ in 0..1_000 {
            pace = slower(pace);
        }
        assert_eq!(pace.rate, LOWEST);
    }
}
