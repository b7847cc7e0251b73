use std::fmt;
use std::sync::Arc;

use crate::Invalid;

/// What kind of thing a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalType {
    /// A person.
    User,
    /// A web site or an installation.
    Site,
    /// A whole tenant.
    Organization,
    /// A back-end service.
    Service,
    /// An agent that acts by itself.
    Agent,
    /// One run or conversation of an agent. May act, never own.
    Session,
}

impl PrincipalType {
    /// Every type.
    pub const ALL: [Self; 6] =
        [Self::User, Self::Site, Self::Organization, Self::Service, Self::Agent, Self::Session];

    /// The word in front of the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Site => "site",
            Self::Organization => "organization",
            Self::Service => "service",
            Self::Agent => "agent",
            Self::Session => "session",
        }
    }
}

/// Who acts or owns, written `type:id`, as in `user:u_42` or `agent:roadie`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    kind: PrincipalType,
    text: Arc<str>,
}

impl Principal {
    const RULE: Invalid = Invalid(
        "must be type:id; the type one of user, site, organization, service, agent, session, \
         the id 1 to 128 characters of A-Z, a-z, 0-9 and ._@+-",
    );

    /// Reads a principal.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (kind, id) = text.split_once(':').ok_or(Self::RULE)?;
        let kind = PrincipalType::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(Self::RULE)?;
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
        if (1..=128).contains(&id.len()) && id.bytes().all(inside) {
            Ok(Self { kind, text: text.into() })
        } else {
            Err(Self::RULE)
        }
    }

    /// Reads a principal that can own a connection: any but a session.
    pub fn parse_owner(text: &str) -> Result<Self, Invalid> {
        let owner = Self::parse(text)?;
        if owner.kind == PrincipalType::Session {
            return Err(Invalid(
                "a session cannot own a connection; name the user, site, organization, service or agent",
            ));
        }
        Ok(owner)
    }

    /// What kind of thing it is.
    pub const fn kind(&self) -> PrincipalType {
        self.kind
    }

    /// The part behind the colon.
    pub fn id(&self) -> &str {
        &self.text[self.kind.as_str().len() + 1..]
    }

    /// The whole, as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_type() {
        for kind in PrincipalType::ALL {
            let principal = Principal::parse(&format!("{}:u_42", kind.as_str())).unwrap();
            assert_eq!((principal.kind(), principal.id()), (kind, "u_42"));
        }
    }

    #[test]
    fn refuses_what_is_not_a_principal() {
        for text in
            ["", "user", "user:", ":x", "User:x", "robot:x", "user:a b", "user:a\n", "user:a:b", "user:é"]
        {
            assert!(Principal::parse(text).is_err(), "{text}");
        }
        assert!(Principal::parse(&format!("user:{}", "x".repeat(129))).is_err());
    }

    #[test]
    fn a_session_cannot_own() {
        assert!(Principal::parse("session:s_9").is_ok());
        assert!(Principal::parse_owner("session:s_9").is_err());
    }
}
