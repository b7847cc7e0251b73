//! When what is done: pure.

use std::time::Duration;

use keyholder_catalog::oauth2::{Refresh, Reuse};
use keyholder_domain::{Timestamp, Tokens};

/// The longest and, for tokens that live long enough, the shortest time before its end that an access token is replaced.
/// More than the clocks of two machines may differ by.
const LEAD: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(86_400));

/// Tokens that have just come are not replaced by newer ones before this, whoever asks.
const SETTLE: Duration = Duration::from_secs(60);

/// How long one call may take, and how long at most where the old token is only good for a while.
const CALL: Duration = Duration::from_secs(10);

/// How long is waited after the first failure, and at most: while it may pass at any moment, and once a connection has
/// failed for long.
const BACKOFF: (Duration, Duration, Duration) =
    (Duration::from_secs(2), Duration::from_secs(60), Duration::from_secs(3_600));

/// So many failures in a row are for long.
const FOR_LONG: i32 = 8;

/// How long before the end its owner is told.
const NOTICES: [time::Duration; 3] =
    [time::Duration::days(30), time::Duration::days(7), time::Duration::days(1)];

/// When a connection with new tokens is refreshed next, and not before when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// None: not by itself.
    pub(super) due: Option<Timestamp>,
    pub(super) earliest: Timestamp,
}

/// Plans the next refresh of tokens that came at `now`. `random`, from 0 to 1, spreads those that came together.
pub(super) fn next(tokens: &Tokens, refresh: &Refresh, now: Timestamp, random: f64) -> Next {
    let settled = |end: Option<Timestamp>| {
        let life = end.map_or(Duration::MAX, |end| left(now, end));
        now + SETTLE.min(life / 2)
    };
    let not_earlier = match (tokens.expire_time, refresh.earliest) {
        (Some(end), Some(before)) => end - before,
        _ => now,
    };
    let earliest = settled(tokens.expire_time).max(not_earlier);
    if !tokens.renewable {
        return Next { due: None, earliest };
    }
    let moment = |end: Timestamp| {
        let life = left(now, end);
        let lead = (life / 5).clamp(LEAD.0, LEAD.1).min(life / 2);
        end - lead - lead.mul_f64(random / 2.0)
    };
    let ends = [tokens.expire_time, tokens.idle_expire_time];
    let due = ends.into_iter().flatten().map(moment).min();
    Next { due: due.map(|due| due.max(not_earlier)), earliest }
}

fn left(now: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end - now).unwrap_or(Duration::ZERO)
}

/// How long one call may take: so little that, where the old token is only good for a while, there is time for another.
pub(super) fn call_time(reuse: Reuse) -> Duration {
    match reuse {
        Reuse::Window(window) => CALL.min(window / 3).max(Duration::from_secs(1)),
        _ => CALL,
    }
}

/// When the owner is told next that the permission ends: 30, 7 and 1 days before, each once.
pub(super) fn next_notice(tokens: &Tokens, now: Timestamp) -> Option<Timestamp> {
    let end = tokens.stop_time()?;
    // What lives for a day or less is nobody's calendar.
    let worth_it = |notice: &Timestamp| *notice > now;
    NOTICES.into_iter().map(|before| end - before).find(worth_it)
}

/// How many days are left, as an event says it.
pub(super) fn notice_name(end: Timestamp, now: Timestamp) -> &'static str {
    let days = (end - now).whole_hours();
    match days {
        ..=24 => "1_DAY",
        25..=168 => "7_DAYS",
        _ => "30_DAYS",
    }
}

/// When to try again after so many failures in a row. `random` is from 0 to 1.
pub(super) fn backoff(failures: i32, random: f64) -> Duration {
    let longest = if failures < FOR_LONG { BACKOFF.1 } else { BACKOFF.2 };
    let doublings = u32::try_from(failures).unwrap_or(0).min(16);
    let most = BACKOFF.0.saturating_mul(1 << doublings).min(longest);
    // Never at once: whoever is asked has just failed.
    most / 4 + most.mul_f64(random * 0.75)
}

/// What may be done with a refresh token when it is not known whether it has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// It may be shown again from this moment on.
    At(Timestamp),
    /// It may not be shown any more.
    Lost,
}

/// A question that was not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    /// When the token was shown first.
    pub(super) first: Timestamp,
    /// When the access token ends.
    pub(super) expire: Option<Timestamp>,
    /// Whether the same question can be asked again without harm, whatever became of the first.
    pub(super) repeatable: bool,
}

/// What a refresh token is worth whose replacement may have been lost.
///
/// Where a replaced token is dead, to show it may end everything that came of the consent, the access token in use
/// included. So that is done only when there is nothing left to lose.
pub(super) fn recovery(reuse: Reuse, lost: Unanswered, now: Timestamp) -> Recovery {
    let until = |end: Timestamp| if now < end { Recovery::At(now) } else { Recovery::Lost };
    match reuse {
        _ if lost.repeatable => Recovery::At(now),
        Reuse::Static | Reuse::NoRefresh | Reuse::UntilUsed(None) => Recovery::At(now),
        Reuse::Window(window) => until(lost.first + window - call_time(reuse)),
        Reuse::UntilUsed(Some(longest)) => until(lost.first + longest - call_time(reuse)),
        Reuse::None => Recovery::At(lost.expire.unwrap_or(lost.first + LEAD.1).max(now)),
    }
}

#[cfg(test)]
mod tests;
