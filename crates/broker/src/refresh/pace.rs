//! How fast a client is used. Its provider says that it had too many calls, but seldom how many it may have; so the pace is
//! looked for between one that went well and one that was too fast.
//!
//! Each time that a provider says so costs a pause, in which nothing is refreshed; a pace that is a little too low costs
//! little. So after one that was too fast comes a quarter of the way from the good one, after a good one half of the way to
//! the bad one, and the search ends two hundredths below what was too fast.

use keyholder_store::Pace;

/// Paces no further apart than this are the same.
const NEAR: f64 = 0.98;

/// What is left of a pace that was too fast when nothing is known that went well, and when what was too fast now went well
/// before: then something small has changed, if anything.
const SLOWER: f64 = 0.8;
const LITTLE_SLOWER: f64 = 0.9;

/// How a pace grows while nothing is known that was too fast.
const FASTER: f64 = 1.5;

/// The lowest pace, a call in ten seconds, and the highest.
const LOWEST: f64 = 0.1;
const HIGHEST: f64 = 10_000.0;

/// The pace of a client that was told for the first time that it had too many calls: what went well within the second
/// before.
pub(super) fn first(seen: f64) -> Pace {
    Pace { rate: seen.max(1.0), good: None, bad: None }
}

/// The pace after one that was too fast.
pub(super) fn slower(pace: Pace) -> Pace {
    let (rate, good) = match pace.good {
        Some(good) if good < pace.rate * NEAR => (good + (pace.rate - good) / 4.0, Some(good)),
        Some(good) if good < pace.rate => (good, Some(good)),
        Some(_) => (pace.rate * LITTLE_SLOWER, None),
        None => (pace.rate * SLOWER, None),
    };
    Pace { rate: rate.max(LOWEST), good, bad: Some(pace.rate) }
}

/// The pace after one that went well. `calm`: for so long that what was too fast may have changed.
pub(super) fn faster(pace: Pace, calm: bool) -> Pace {
    let good = Some(pace.rate);
    match pace.bad {
        None => Pace { rate: (pace.rate * FASTER).min(HIGHEST), good, bad: None },
        Some(bad) if pace.rate < bad * NEAR => {
            Pace { rate: f64::midpoint(pace.rate, bad), good, bad: Some(bad) }
        }
        Some(_) if calm => Pace { rate: pace.rate / NEAR, good, bad: None },
        Some(bad) => Pace { good, bad: Some(bad), ..pace },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a provider counts.
    #[derive(Debug, Clone, Copy)]
    enum Limiter {
        /// So many in each second, or in so many seconds, of the clock.
        Windows(u32, f64),
        /// So many a second, and some more at once.
        Bucket { rate: f64, burst: f64 },
    }

    /// How long so many calls take at a provider that takes only so many a second, and how often it says so. In steps of five
    /// milliseconds, with calls that take four of them: as the refresher and its statements do it.
    fn seconds(limiter: Limiter, calls: u32) -> (f64, u32) {
        const STEP: f64 = 0.005;
        const BURST: f64 = 0.1;
        let (mut done, mut pauses) = (0, 0);
        let mut pace: Option<Pace> = None;
        let (mut paid, mut pause_end, mut limited_time, mut pace_time) = (0.0_f64, 0.0, -1e9, -1e9_f64);
        let (mut window, mut in_window, mut good_time) = (0, 0, -1e9);
        let (mut tokens, mut filled) = (
            match limiter {
                Limiter::Bucket { burst, .. } => burst,
                Limiter::Windows(..) => 0.0,
            },
            0.0,
        );
        let mut good: std::collections::VecDeque<f64> = std::collections::VecDeque::new();
        let mut flying: std::collections::VecDeque<(f64, f64)> = std::collections::VecDeque::new();
        let mut step = 0_u32;
        while done < calls {
            let now = f64::from(step) * STEP;
            step += 1;
            while flying.front().is_some_and(|(_, end)| *end <= now) {
                let (asked, _) = flying.pop_front().unwrap();
                let taken = match limiter {
                    Limiter::Windows(number, length) => {
                        let current = (now / length).floor() as u32;
                        if current != window {
                            (window, in_window) = (current, 0);
                        }
                        in_window += 1;
                        in_window <= number
                    }
                    Limiter::Bucket { rate, burst } => {
                        tokens = f64::min(burst, tokens + (now - filled) * rate);
                        filled = now;
                        if tokens >= 1.0 {
                            tokens -= 1.0;
                            true
                        } else {
                            false
                        }
                    }
                };
                good.retain(|time| now - time < 1.0);
                let seen = good.len() as f64;
                if taken {
                    done += 1;
                    good_time = now;
                    good.push_back(now);
                    if let Some(known) = pace {
                        let settled = f64::max(pause_end, pace_time) + f64::max(2.0, 3.0 / known.rate) < now;
                        if known.bad.is_none() && now - limited_time < 2.0 {
                            pace = Some(Pace { rate: known.rate.max(seen), ..known });
                        } else if settled {
                            (pace, pace_time) = (Some(faster(known, now - limited_time > 120.0)), now);
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
            let room = 32 - flying.len();
            let room = pace.map_or(room, |pace| {
                if paid > now { 0 } else { room.min(1 + ((now - paid).min(BURST) * pace.rate) as usize) }
            });
            if now >= pause_end && step.is_multiple_of(8) && room > 0 {
                flying.extend(std::iter::repeat_n((now, now + 0.02), room));
                if let Some(pace) = pace {
                    paid = f64::max(paid, now - BURST) + room as f64 / pace.rate;
                }
            }
        }
        (f64::from(step) * STEP, pauses)
    }

    #[test]
    fn f33_a_herd_takes_at_most_a_tenth_longer_than_its_provider_wants_however_that_counts() {
        for (limiter, rate, most) in [
            (Limiter::Windows(200, 1.0), 200.0, 1.1),
            (Limiter::Windows(50, 1.0), 50.0, 1.1),
            (Limiter::Windows(300, 1.0), 300.0, 1.1),
            (Limiter::Bucket { rate: 200.0, burst: 200.0 }, 200.0, 1.1),
            // It is found out late, and by chance, that a minute is over.
            (Limiter::Windows(3_000, 60.0), 50.0, 1.5),
        ] {
            let (seconds, pauses) = seconds(limiter, 20_000);
            let ratio = seconds / (20_000.0 / rate);
            assert!(ratio < most, "{limiter:?}: {ratio:.2} times as long, {pauses} pauses");
        }
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
