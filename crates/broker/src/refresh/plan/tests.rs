use keyholder_catalog::Catalog;
use keyholder_domain::ProviderId;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + time::Duration::seconds(seconds)
}

/// The refresh recipe of a built-in provider.
fn refresh_of(id: &str) -> Refresh {
    let catalog = Catalog::builtin();
    catalog.get(&ProviderId::parse(id).unwrap()).unwrap().oauth2.as_ref().unwrap().refresh.clone()
}

fn tokens(expire: Option<i64>) -> Tokens {
    Tokens { expire_time: expire.map(at), renewable: true, ..Tokens::default() }
}

#[test]
fn a_token_of_an_hour_is_replaced_more_than_five_minutes_before_its_end_whatever_chance_says() {
    let refresh = refresh_of("google");
    for random in [0.0, 0.5, 1.0] {
        let due = next(&tokens(Some(3_600)), &refresh, at(0), random).due.unwrap();
        assert!(due <= at(3_600 - 600) && due >= at(1_800), "{due}");
    }
}

#[test]
fn tokens_that_came_together_are_spread() {
    let refresh = refresh_of("google");
    let due = |random| next(&tokens(Some(3_600)), &refresh, at(0), random).due.unwrap();
    assert!(due(0.0) - due(1.0) >= time::Duration::minutes(5));
}

#[test]
fn f23_a_short_lived_token_is_replaced_when_half_its_life_is_over_or_later() {
    let due = next(&tokens(Some(60)), &refresh_of("google"), at(0), 0.0).due.unwrap();
    assert_eq!(due, at(30));
}

#[test]
fn what_cannot_be_renewed_is_not_due_and_without_an_end_neither() {
    let refresh = refresh_of("google");
    assert_eq!(next(&Tokens { renewable: false, ..tokens(Some(60)) }, &refresh, at(0), 0.0).due, None);
    assert_eq!(next(&tokens(None), &refresh, at(0), 0.0).due, None);
}

#[test]
fn a_permission_that_dies_when_it_is_not_used_is_used_in_time() {
    let idle = Tokens { idle_expire_time: Some(at(30 * 86_400)), ..tokens(None) };
    let due = next(&idle, &refresh_of("google"), at(0), 0.0).due.unwrap();
    assert_eq!(due, at(29 * 86_400));
}

#[test]
fn no_provider_is_asked_earlier_than_it_allows() {
    let refresh = Refresh { earliest: Some(Duration::from_secs(30)), ..refresh_of("google") };
    let planned = next(&tokens(Some(600)), &refresh, at(0), 1.0);
    assert_eq!((planned.due, planned.earliest), (Some(at(570)), at(570)));
}

#[test]
fn notices_come_30_7_and_1_days_before_the_end_each_once() {
    let end = Tokens { absolute_expire_time: Some(at(40 * 86_400)), ..tokens(None) };
    let mut now = at(0);
    let mut told = Vec::new();
    while let Some(notice) = next_notice(&end, now) {
        told.push((notice.unix_timestamp() / 86_400, notice_name(at(40 * 86_400), notice)));
        now = notice;
    }
    assert_eq!(told, [(10, "30_DAYS"), (33, "7_DAYS"), (39, "1_DAY")]);
}

#[test]
fn waiting_grows_and_is_never_nothing() {
    assert_eq!(backoff(0, 1.0), Duration::from_secs(2));
    assert!(backoff(0, 0.0) >= Duration::from_millis(500));
    assert_eq!(backoff(FOR_LONG - 1, 1.0), Duration::from_secs(60));
    assert_eq!(backoff(30, 1.0), Duration::from_secs(3_600));
}

fn lost(first: i64, expire: Option<i64>) -> Unanswered {
    Unanswered { first: at(first), expire: expire.map(at), repeatable: false }
}

#[test]
fn a_token_that_stays_good_is_shown_again_at_once() {
    assert_eq!(recovery(Reuse::Static, lost(0, None), at(5)), Recovery::At(at(5)));
    assert_eq!(recovery(Reuse::UntilUsed(None), lost(0, None), at(5)), Recovery::At(at(5)));
    let repeatable = Unanswered { repeatable: true, ..lost(0, None) };
    assert_eq!(recovery(Reuse::None, repeatable, at(5)), Recovery::At(at(5)));
}

#[test]
fn a_token_with_a_window_is_shown_again_only_while_an_answer_can_still_come_inside_it() {
    let window = Reuse::Window(Duration::from_secs(30));
    assert_eq!(recovery(window, lost(0, Some(600)), at(19)), Recovery::At(at(19)));
    assert_eq!(recovery(window, lost(0, Some(600)), at(20)), Recovery::Lost);
}

#[test]
fn a_token_with_a_window_leaves_time_for_a_second_call_after_its_lease() {
    for seconds in [10, 30, 60, 600] {
        let reuse = Reuse::Window(Duration::from_secs(seconds));
        let lease = call_time(reuse).as_secs() + 3;
        assert!(lease + call_time(reuse).as_secs() <= seconds, "{seconds}");
    }
}

#[test]
fn a_token_that_is_dead_once_it_is_used_is_shown_again_only_when_nothing_is_left_to_lose() {
    assert_eq!(recovery(Reuse::None, lost(0, Some(600)), at(5)), Recovery::At(at(600)));
    assert_eq!(recovery(Reuse::None, lost(0, Some(600)), at(700)), Recovery::At(at(700)));
}
