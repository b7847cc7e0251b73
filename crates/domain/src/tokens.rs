use crate::{Scopes, Text, Timestamp};

/// What is known of the tokens that an OAuth server issued for a connection. Holds none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The public id of the client that they were issued to.
    pub client_id: Text,
    /// The scopes that were asked for. What was granted are the connection's scopes.
    pub asked: Scopes,
    /// When the access token ends. None: the provider did not say, and nothing is known.
    pub expire_time: Option<Timestamp>,
    /// Whether Keyholder holds what it takes to get the next access token.
    pub renewable: bool,
    /// Whether the provider was expected to give that, and did not.
    pub renewal_missing: bool,
    /// When the refresh token ends if it is not used.
    pub idle_expire_time: Option<Timestamp>,
    /// When the permission ends, however often it is used.
    pub absolute_expire_time: Option<Timestamp>,
}

impl Tokens {
    /// The scopes that were asked for and not granted.
    pub fn missing(&self, granted: &Scopes) -> Scopes {
        self.asked.difference(granted)
    }

    /// When the connection stops working by itself unless its owner consents again. None: never, as far as is known.
    pub fn stop_time(&self) -> Option<Timestamp> {
        if self.renewable { self.absolute_expire_time } else { self.expire_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_renewed_stops_with_its_access_token() {
        let end = Timestamp::UNIX_EPOCH;
        let later = end + time::Duration::DAY;
        let tokens =
            Tokens { expire_time: Some(end), absolute_expire_time: Some(later), ..Tokens::default() };
        assert_eq!(tokens.stop_time(), Some(end));
        assert_eq!(Tokens { renewable: true, ..tokens.clone() }.stop_time(), Some(later));
        assert_eq!(Tokens { renewable: true, absolute_expire_time: None, ..tokens }.stop_time(), None);
    }

    #[test]
    fn a_scope_that_was_not_granted_is_missing() {
        let scopes = |texts: &[&str]| Scopes::parse(texts).unwrap();
        let tokens = Tokens { asked: scopes(&["a", "b"]), ..Tokens::default() };
        assert_eq!(tokens.missing(&scopes(&["b", "c"])), scopes(&["a"]));
    }
}
