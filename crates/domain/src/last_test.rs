use crate::{Text, Timestamp};

/// What a provider's answer says about a credential. Only [`Good`](Self::Good), [`Dead`](Self::Dead) and
/// [`Forbidden`](Self::Forbidden) say anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TestClass {
    /// The provider takes it.
    Good,
    /// The provider says that it is wrong, revoked or expired. To try it again is of no use.
    Dead,
    /// The provider knows it, and does not let it do this.
    Forbidden,
    /// Too many requests; ask later.
    Limited,
    /// The provider does not work at present, or cannot be reached; ask later.
    Unavailable,
    /// Nothing that the definition knows.
    Unclear,
    /// The provider was not asked: its address may not be called.
    Refused,
}

impl TestClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::Dead,
        Self::Forbidden,
        Self::Limited,
        Self::Unavailable,
        Self::Unclear,
        Self::Refused,
    ];

    /// The class's name in the database and in the audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "GOOD",
            Self::Dead => "DEAD",
            Self::Forbidden => "FORBIDDEN",
            Self::Limited => "LIMITED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unclear => "UNCLEAR",
            Self::Refused => "REFUSED",
        }
    }

    /// Reads a class's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// How the last real call with a connection's credential went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastTest {
    /// When.
    pub time: Timestamp,
    /// What the answer says about the credential.
    pub class: TestClass,
    /// The answer's HTTP status; none if there was no answer.
    pub http_status: Option<u16>,
    /// One sentence of ours; nothing of the provider's.
    pub summary: Text,
}
