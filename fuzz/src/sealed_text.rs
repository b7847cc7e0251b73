//! The text of a sealed value and of a wrapped key. Whoever can write to the database can put anything there.

use std::sync::LazyLock;

use keyholder_domain::{Generation, OrganizationId, Timestamp};
use keyholder_vault::{DataKey, Place, Sealed, WrappedKey};

static KEY: LazyLock<DataKey> = LazyLock::new(|| DataKey::generate(Timestamp::UNIX_EPOCH));

/// What is accepted has one spelling, names its key, and does not open with another.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (sealed, wrapped) = (Sealed::parse(text), WrappedKey::parse(text));
    assert_eq!(sealed.is_ok(), wrapped.is_ok());
    if let (Ok(sealed), Ok(wrapped)) = (sealed, wrapped) {
        assert_eq!(sealed.as_str(), text);
        assert_eq!(wrapped.as_str(), text);
        assert_eq!(sealed.key_id(), wrapped.key_id());
        assert!(text.starts_with(&format!("enc:v1:{}:", sealed.key_id())));
        for other in
            [format!("{text}="), format!(" {text}"), format!("{text}\n"), text.replacen("v1", "v01", 1)]
        {
            assert!(Sealed::parse(&other).is_err(), "a second spelling of a sealed value: {other:?}");
        }
    }
    does_not_open(text);
}

fn does_not_open(text: &str) {
    let organization = OrganizationId::parse("acme").expect("a name of the alphabet");
    let place = Place {
        organization: &organization,
        row: "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        field: "credential",
        generation: Generation::FIRST,
    };
    assert!(KEY.open(&place, text).is_err());
    // The right key's name on another key's text gets as far as the cipher.
    let mut parts: Vec<&str> = text.splitn(4, ':').collect();
    let id = KEY.id().to_string();
    if let Some(part) = parts.get_mut(2) {
        *part = &id;
        assert!(KEY.open(&place, &parts.join(":")).is_err());
    }
}
