use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::{Invalid, Timestamp};

/// Declares an id that is written as a prefix and the 32 hex digits of a UUIDv7 (RFC 9562, section 5.7).
macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes a new id from the time and 10 random bytes. An id made a microsecond later sorts later.
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                Self(uuid_v7(now, random))
            }

            /// Reads an id as it is written in the API.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                const RULE: Invalid = Invalid(concat!("must be \"", $prefix, "\" and 32 lower-case hex digits"));
                let hex = text.strip_prefix($prefix).ok_or(RULE)?;
                let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                if hex.len() != 32 || !hex.bytes().all(lower_hex) {
                    return Err(RULE);
                }
                Uuid::try_parse(hex).map(Self).map_err(|_| RULE)
            }

            /// The id without its prefix, as the database holds it.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }

            /// An id that the database holds.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // In one piece: `to_string` then makes room once.
                let mut text = [0; $prefix.len() + uuid::fmt::Simple::LENGTH];
                let (prefix, hex) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                self.0.simple().encode_lower(hex);
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// A UUIDv7 whose 12 bits behind the milliseconds are the part of a millisecond (RFC 9562, section 6.2, method 3).
fn uuid_v7(now: Timestamp, mut random: [u8; 10]) -> Uuid {
    let micros = u64::try_from(now.unix_timestamp_nanos() / 1_000).unwrap_or(0);
    let fraction = (micros % 1_000) * 4_096 / 1_000;
    let [.., high, low] = fraction.to_be_bytes();
    (random[0], random[1]) = (high, low);
    uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &random).into_uuid()
}

prefixed_id!(
    /// One account of one owner at one provider.
    ConnectionId,
    "conn_"
);
prefixed_id!(
    /// A permission for a principal to use connections.
    GrantId,
    "grant_"
);
prefixed_id!(
    /// One OAuth flow.
    AuthorizationId,
    "authz_"
);
prefixed_id!(
    /// Many connections that are revoked in one go.
    RevocationRunId,
    "run_"
);
prefixed_id!(
    /// One line of the audit.
    AuditEventId,
    "audit_"
);

/// Declares a name: lower-case words in a small alphabet.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:literal, $extra:pat, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads a name.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | $extra);
                let starts_well = text.bytes().next().is_some_and(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
                if starts_well && text.len() <= $max && text.bytes().all(inside) {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid($rule))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The tenant. Every row, key and decision belongs to exactly one.
    OrganizationId,
    64,
    b'-' | b'_',
    "must be 1 to 64 characters of a-z, 0-9, '-' and '_', and begin with a letter or a digit"
);
name!(
    /// An outside service, as its provider definition names it.
    ProviderId,
    64,
    b'-',
    "must be 1 to 64 characters of a-z, 0-9 and '-', and begin with a letter or a digit"
);

/// What makes a create idempotent: the same request sent again with the same id is done once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Reads a request id: 1 to 64 visible ASCII characters, such as a UUID.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid("must be 1 to 64 visible ASCII characters, such as a UUID"))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The version number of a connection or a grant. Starts at 1 and grows by one at every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(i64);

impl Generation {
    /// The generation of a row that was just made.
    pub const FIRST: Self = Self(1);

    /// A generation as the database or the API holds it.
    pub fn new(number: i64) -> Result<Self, Invalid> {
        if number >= 1 { Ok(Self(number)) } else { Err(Invalid("must be 1 or more")) }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The generation after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_own_text() {
        let id = ConnectionId::new(Timestamp::UNIX_EPOCH + time::Duration::days(20_000), [7; 10]);
        assert_eq!(ConnectionId::parse(&id.to_string()), Ok(id));
        assert_eq!(id.as_uuid().get_version_num(), 7);
    }

    #[test]
    fn ids_made_later_sort_later() {
        let at = |micros| {
            ConnectionId::new(Timestamp::UNIX_EPOCH + time::Duration::microseconds(micros), [255; 10])
        };
        let ids: Vec<_> = (0..3_000).map(at).collect();
        assert!(ids.is_sorted() && ids.iter().collect::<std::collections::BTreeSet<_>>().len() == ids.len());
    }

    #[test]
    fn refuses_ids_of_another_kind_or_spelling() {
        for text in [
            "",
            "conn_",
            "grant_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
            "conn_0193A1B2C3D47E5F8A9B0C1D2E3F4A5B",
            "conn_0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
            "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b ",
            "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5\u{e9}",
        ] {
            assert!(ConnectionId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_organizations_outside_the_alphabet() {
        assert!(OrganizationId::parse("acme-2_x").is_ok());
        for text in ["", "-acme", "Acme", "a b", "a\n", "a/b", "ä", &"a".repeat(65)] {
            assert!(OrganizationId::parse(text).is_err(), "{text}");
        }
    }
}
