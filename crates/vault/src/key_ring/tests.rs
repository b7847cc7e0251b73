use keyholder_domain::Timestamp;
use secrecy::ExposeSecret as _;

use super::*;

const KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
const DATA_KEY_ID: &str = "dk_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const WRAPPED: &str = "enc:v1:kek-a13bf4ddd381ea0b:ZGVmZ2hpamtsbW5vIG_GReYmQ-T9Zpa5mQHBnthg_cN_2Sj1brlSrPQwJAajhCjVuva9qsit\
                       -Fs34aLP";

fn ring_of(primary: &KeyEncryptionKey, others: &[&KeyEncryptionKey]) -> KeyRing {
    let copy = |key: &KeyEncryptionKey| KeyEncryptionKey::from_base64(&key.to_base64()).unwrap();
    KeyRing::new(copy(primary), others.iter().copied().map(copy).collect()).unwrap()
}

fn known_ring() -> KeyRing {
    KeyRing::new(KeyEncryptionKey::from_base64(&KEY.into()).unwrap(), Vec::new()).unwrap()
}

fn organization(text: &str) -> OrganizationId {
    OrganizationId::parse(text).unwrap()
}

/// The answer is the one that `known_answers.py` computes with Python's `cryptography`.
#[test]
fn opens_the_known_answer() {
    let id = DataKeyId::parse(DATA_KEY_ID).unwrap();
    let key = known_ring().unwrap(&organization("acme"), &id, WRAPPED).unwrap();
    assert_eq!(key.bytes().as_slice(), std::array::from_fn::<u8, 32, _>(|byte| byte as u8));
    assert_eq!(key.id(), &id);
}

#[test]
fn an_old_key_opens_and_only_the_primary_wraps() {
    let (old, new) = (KeyEncryptionKey::generate(), KeyEncryptionKey::generate());
    let acme = organization("acme");
    let data_key = DataKey::generate(Timestamp::UNIX_EPOCH);
    let wrapped = ring_of(&old, &[]).wrap(&data_key, &acme);
    assert_eq!(wrapped.key_id(), old.id());

    let ring = ring_of(&new, &[&old]);
    let opened = ring.unwrap(&acme, data_key.id(), wrapped.as_str()).unwrap();
    assert_eq!(opened.bytes(), data_key.bytes());
    let rewrapped = ring.wrap(&opened, &acme);
    assert_eq!((rewrapped.key_id(), ring.primary_id()), (new.id(), new.id()));

    let after = ring_of(&new, &[]);
    let reopened = after.unwrap(&acme, data_key.id(), rewrapped.as_str()).unwrap();
    assert_eq!(reopened.bytes(), data_key.bytes());
    let error = after.unwrap(&acme, data_key.id(), wrapped.as_str()).unwrap_err();
    assert_eq!(error, OpenError::UnknownKey { key_id: old.id().into() });
}

#[test]
fn i9_opens_for_its_own_organization_and_id_only() {
    let id = DataKeyId::parse(DATA_KEY_ID).unwrap();
    let other_id = DataKeyId::new(Timestamp::UNIX_EPOCH, [0; 10]);
    let open = |name, id: &DataKeyId| known_ring().unwrap(&organization(name), id, WRAPPED).map(drop);
    assert_eq!(open("acme", &id), Ok(()));
    assert_eq!(open("acme-2", &id), Err(OpenError::NotAuthentic));
    assert_eq!(open("acme", &other_id), Err(OpenError::NotAuthentic));
}

#[test]
fn a_changed_key_does_not_open() {
    let id = DataKeyId::parse(DATA_KEY_ID).unwrap();
    let open = |text: &str| known_ring().unwrap(&organization("acme"), &id, text).unwrap_err();
    let body = WRAPPED.rfind(':').unwrap() + 1;
    for position in body..WRAPPED.len() - 1 {
        let mut text = WRAPPED.to_owned();
        let other = if &text[position..=position] == "A" { "B" } else { "A" };
        text.replace_range(position..=position, other);
        assert_eq!(open(&text), OpenError::NotAuthentic, "{text}");
    }
    assert_eq!(open(&WRAPPED[..WRAPPED.len() - 4]), OpenError::NotAuthentic);
    assert_eq!(open(""), OpenError::Malformed);
}

#[test]
fn refuses_the_same_key_twice() {
    let key = || KeyEncryptionKey::from_base64(&KEY.into()).unwrap();
    let error = KeyRing::new(key(), vec![KeyEncryptionKey::generate(), key()]).unwrap_err();
    assert!(matches!(&error, KeyError::Duplicate { key_id } if *key_id == key().id()));
}

#[test]
fn i6_prints_ids_and_no_key() {
    let ring = known_ring();
    let text = format!("{ring:?} {ring:#?}");
    assert!(text.contains(ring.primary_id()));
    let secret = ring.primary.to_base64();
    assert!(!text.contains(&secret.expose_secret()[..8]) && !text.contains("255") && !text.contains("fffe"));
}
