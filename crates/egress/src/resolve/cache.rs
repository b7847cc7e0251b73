use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Answer;

/// The most answers that are kept.
const CAPACITY: usize = 1024;

/// What the name servers said lately.
#[derive(Default)]
pub(super) struct Cache {
    answers: HashMap<String, (Answer, Instant)>,
}

impl Cache {
    /// What was said about a name, if it is still good.
    pub(super) fn get(&self, name: &str, now: Instant) -> Option<Answer> {
        let (answer, good_until) = self.answers.get(name)?;
        (now < *good_until).then(|| answer.clone())
    }

    /// Keeps an answer for its lifetime; for none at all, if it has none. Makes room by forgetting what is no
    /// longer good, and if that is not enough, everything.
    pub(super) fn put(&mut self, name: &str, answer: &Answer, now: Instant, lifetime: Duration) {
        self.answers.remove(name);
        if lifetime.is_zero() {
            return;
        }
        if self.answers.len() >= CAPACITY {
            self.answers.retain(|_, (_, good_until)| now < *good_until);
        }
        if self.answers.len() >= CAPACITY {
            self.answers.clear();
        }
        self.answers.insert(name.to_owned(), (answer.clone(), now + lifetime));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn keeps_an_answer_for_its_lifetime() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put("a.example", &Answer::default(), now, MINUTE);
        assert!(cache.get("a.example", now).is_some());
        assert!(cache.get("a.example", now + MINUTE - Duration::from_nanos(1)).is_some());
        assert!(cache.get("a.example", now + MINUTE).is_none());
        assert!(cache.get("b.example", now).is_none());
    }

    #[test]
    fn an_answer_without_a_lifetime_ends_the_one_before() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put("a.example", &Answer::default(), now, MINUTE);
        cache.put("a.example", &Answer::default(), now, Duration::ZERO);
        assert!(cache.get("a.example", now).is_none());
    }

    #[test]
    fn never_holds_more_than_its_capacity() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * CAPACITY {
            cache.put(&format!("n{number}.example"), &Answer::default(), now, MINUTE);
            assert!(cache.answers.len() <= CAPACITY);
        }
        cache.put("late.example", &Answer::default(), now + MINUTE, MINUTE);
        assert_eq!(cache.answers.len() % CAPACITY, 3 * CAPACITY % CAPACITY + 1);
    }
}
