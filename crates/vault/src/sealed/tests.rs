use proptest::prelude::*;

use super::*;

/// 28 bytes, the least that a nonce and a tag take.
const BODY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn parse(text: &str) -> Result<Sealed, OpenError> {
    Sealed::parse(text)
}

#[test]
fn reads_what_it_writes() {
    let sealed = Sealed::from_parts("kek-0", &[7; 40]);
    assert_eq!(parse(sealed.as_str()), Ok(sealed.clone()));
    assert_eq!(sealed.key_id(), "kek-0");
    assert_eq!(WrappedKey::parse(sealed.as_str()).unwrap().key_id(), "kek-0");
}

#[test]
fn prints_its_key_and_not_its_content() {
    let sealed = Sealed::from_parts("kek-0", &[7; 40]);
    assert_eq!(format!("{sealed:?}"), "Sealed(kek-0)");
    assert_eq!(format!("{:?}", WrappedKey(sealed)), "WrappedKey(kek-0)");
}

#[test]
fn refuses_every_other_spelling() {
    let good = format!("enc:v1:dk_0:{BODY}");
    assert!(parse(&good).is_ok());
    for text in [
        String::new(),
        "enc".into(),
        "enc:v1".into(),
        "enc:v1:dk_0".into(),
        "enc:v1:dk_0:".into(),
        format!("enc:v1:{BODY}"),
        format!("enc:v1:dk_0:{BODY}:"),
        format!("enc:v1:dk_0:{BODY}:{BODY}"),
        format!(" enc:v1:dk_0:{BODY}"),
        format!("enc:v1:dk_0:{BODY}\n"),
        format!("ENC:v1:dk_0:{BODY}"),
        format!("enc:V1:dk_0:{BODY}"),
        format!("enc:1:dk_0:{BODY}"),
        format!("enc:v:dk_0:{BODY}"),
        format!("enc:v01:dk_0:{BODY}"),
        format!("enc:v+1:dk_0:{BODY}"),
        format!("enc:v0:dk_0:{BODY}"),
        format!("enc:v12345:dk_0:{BODY}"),
        format!("enc:v1::{BODY}"),
        format!("enc:v1:DK_0:{BODY}"),
        format!("enc:v1:dk 0:{BODY}"),
        format!("enc:v1:dk\u{e9}:{BODY}"),
        format!("enc:v1:{}:{BODY}", "d".repeat(65)),
        // Padded; of the standard alphabet; with white space; a bit left over; too short.
        format!("enc:v1:dk_0:{BODY}=="),
        format!("enc:v1:dk_0:+{}", &BODY[1..]),
        format!("enc:v1:dk_0:{}\n{}", &BODY[..19], &BODY[19..]),
        format!("enc:v1:dk_0:{}B", &BODY[1..]),
        format!("enc:v1:dk_0:{}", &BODY[2..]),
    ] {
        assert_eq!(parse(&text), Err(OpenError::Malformed), "{text:?}");
    }
}

#[test]
fn knows_a_later_version_when_it_sees_one() {
    for version in ["v2", "v10"] {
        assert_eq!(parse(&format!("enc:{version}:dk_0:{BODY}")), Err(OpenError::UnknownVersion));
    }
}

proptest! {
    #[test]
    fn never_panics_and_every_value_has_one_spelling(
        text in "(enc:v1:[a-z0-9_-]{0,6}:[A-Za-z0-9_=-]{36,44})|\\PC{0,60}",
    ) {
        if let Ok(sealed) = Sealed::parse(&text) {
            let envelope = Envelope::parse(&text).unwrap();
            let bytes = [envelope.nonce().as_slice(), envelope.bytes()].concat();
            prop_assert_eq!(Sealed::from_parts(envelope.key_id(), &bytes), sealed);
        }
    }
}
