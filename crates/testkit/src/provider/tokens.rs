use std::fmt;

use keyholder_domain::Timestamp;

use super::book::Issued;

/// The tokens of a grant that was opened without a browser.
#[derive(Clone)]
pub struct Tokens {
    /// The access token.
    pub access: String,
    /// The refresh token, if one is given out.
    pub refresh: Option<String>,
    /// When the access token ends.
    pub ends: Timestamp,
}

impl From<Issued> for Tokens {
    fn from(issued: Issued) -> Self {
        Self { access: issued.access, refresh: issued.refresh.map(|(_, text)| text), ends: issued.ends }
    }
}

/// Without the tokens: what is printed ends up in logs.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("ends", &self.ends).finish_non_exhaustive()
    }
}
