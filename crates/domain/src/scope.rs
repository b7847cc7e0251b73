use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::Invalid;

/// One permission at a provider, such as `mail.read`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Reads a scope token: 1 to 256 visible ASCII characters but `"` and `\` (RFC 6749, section 3.3).
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let inside = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if (1..=256).contains(&text.len()) && text.bytes().all(inside) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid("must be 1 to 256 visible ASCII characters but \" and \\"))
        }
    }

    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of scopes. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Arc<BTreeSet<Scope>>);

impl Scopes {
    /// The most scopes that one set may have.
    pub const MAX: usize = 200;

    /// Reads a list of scopes; order and repetition do not matter.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, Invalid> {
        let set: BTreeSet<Scope> =
            texts.into_iter().map(|text| Scope::parse(text.as_ref())).collect::<Result<_, _>>()?;
        if set.len() > Self::MAX {
            Err(Invalid("must be at most 200 scopes"))
        } else {
            Ok(Self(Arc::new(set)))
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every scope of this set is in the other.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The scopes that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(Arc::new(self.0.intersection(&other.0).cloned().collect()))
    }

    /// The scopes of this set that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        Self(Arc::new(self.0.difference(&other.0).cloned().collect()))
    }

    /// The scopes that are in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(Arc::new(self.0.union(&other.0).cloned().collect()))
    }

    /// The scopes in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Scope::as_str)
    }

    /// The scopes in order, as owned text.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_neither_order_nor_repetition() {
        assert_eq!(Scopes::parse(["b", "a", "b"]), Scopes::parse(["a", "b"]));
    }

    #[test]
    fn refuses_what_rfc_6749_refuses() {
        for text in ["", "a b", "a\"b", "a\\b", "é", "a\u{7f}", "a\n"] {
            assert!(Scope::parse(text).is_err(), "{text:?}");
        }
    }
}
