use keyholder_domain::{Generation, OrganizationId};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

const ROW: &str = "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const ID: &str = "dk_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const SEALED: &str = "enc:v1:dk_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:ZGVmZ2hpamtsbW5vK3SsFByKIr5WDS2bv0UInDa2Y3jyTIAGxqH\
                      ALQ7KHgwyRv8zqpj4nkFa0Fo";
const SEALED_CREDENTIAL: &str = "enc:v1:dk_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:ZGVmZ2hpamtsbW5vSRveZnnpVp42Ej6bqRIFjybC\
                                 BgqLbPNyoLnZJo_G13qU6UDATBKbDIiAHU2TI6eqG1uY5yBKQSublc3Y8Fs1oJA5oYG3-it2taGJ";

/// The key of the known answers: bytes 0 to 31.
fn key() -> DataKey {
    DataKey::new(DataKeyId::parse(ID).unwrap(), Zeroizing::new(std::array::from_fn(|byte| byte as u8)))
}

fn other_key() -> DataKey {
    DataKey::generate(Timestamp::UNIX_EPOCH)
}

fn acme() -> OrganizationId {
    OrganizationId::parse("acme").unwrap()
}

fn place(organization: &OrganizationId) -> Place<'_> {
    Place { organization, row: ROW, field: "credential", generation: Generation::new(7).unwrap() }
}

fn credential(fields: &[(&str, &str)]) -> Credential {
    Credential::from_fields(fields.iter().map(|(name, secret)| ((*name).into(), (*secret).into())).collect())
}

/// The answers are those that `known_answers.py` computes with Python's `cryptography`.
#[test]
fn seals_and_opens_the_known_answers() {
    let organization = acme();
    let place = place(&organization);
    let plaintext = b"correct horse battery staple";
    let nonce = std::array::from_fn(|byte| 100 + byte as u8);
    let sealed = key().cipher.seal_with_nonce(nonce, ID, &place.associated_data(key().id()), plaintext);
    assert_eq!(sealed.as_str(), SEALED);
    assert_eq!(key().open(&place, SEALED).unwrap().as_slice(), plaintext);

    let opened = key().open_credential(&place, &Envelope::parse(SEALED_CREDENTIAL).unwrap()).unwrap();
    assert!(opened.names().eq(["password", "username"]));
    assert_eq!(opened.get("password").unwrap().expose_secret(), "hunter2");
    assert_eq!(opened.get("username").unwrap().expose_secret(), "ada");
    assert_eq!(key().fingerprint("same", &opened), "3Y08TBRQ6bHWaU8ibG122ZdF2-wOS-xtRI7W-JpzfOk");
    let bytes = opened.encode();
    assert_eq!(key().fingerprint_bytes("same", &bytes), "2jlWtnej7AMiiq8XKrRoggWQFMwfwgbZZ9jfpZIqvhQ");
}

#[test]
fn i9_opens_in_no_other_organization_row_field_or_generation() {
    let (acme, other) = (acme(), OrganizationId::parse("acme-2").unwrap());
    let place = place(&acme);
    let sealed = key().seal(&place, b"secret");
    let older = Generation::new(6).unwrap();
    for elsewhere in [
        Place { organization: &other, ..place },
        Place { row: "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5c", ..place },
        Place { row: "", ..place },
        Place { field: "next_credential", ..place },
        Place { generation: older, ..place },
        Place { generation: place.generation.next(), ..place },
    ] {
        assert_eq!(key().open(&elsewhere, sealed.as_str()), Err(OpenError::NotAuthentic), "{elsewhere:?}");
    }
    assert!(key().open(&place, sealed.as_str()).is_ok());
}

#[test]
fn i9_an_older_value_of_the_same_row_does_not_open_in_its_place() {
    let acme = acme();
    let (now, then) = (place(&acme), Place { generation: Generation::FIRST, ..place(&acme) });
    let (old, new) = (key().seal(&then, b"old"), key().seal(&now, b"new"));
    assert_eq!(key().open(&now, old.as_str()), Err(OpenError::NotAuthentic));
    assert_eq!(key().open(&now, new.as_str()).unwrap().as_slice(), b"new");
}

#[test]
fn another_key_says_which_one_is_needed() {
    let acme = acme();
    let error = other_key().open(&place(&acme), SEALED).unwrap_err();
    assert_eq!(error, OpenError::UnknownKey { key_id: ID.into() });
    let renamed = SEALED.replace(ID, other_key().id().as_str());
    assert!(matches!(key().open(&place(&acme), &renamed), Err(OpenError::UnknownKey { .. })));
}

#[test]
fn a_key_under_a_wrong_id_opens_nothing() {
    let acme = acme();
    let impostor = DataKey::new(DataKeyId::parse(ID).unwrap(), Zeroizing::new([7; KEY_LEN]));
    assert_eq!(impostor.open(&place(&acme), SEALED), Err(OpenError::NotAuthentic));
    let other_id = DataKeyId::new(Timestamp::UNIX_EPOCH, [0; 10]);
    let renamed = SEALED.replace(ID, other_id.as_str());
    let same_bytes = DataKey::new(other_id, key().bytes().clone());
    assert_eq!(same_bytes.open(&place(&acme), &renamed), Err(OpenError::NotAuthentic), "the id counts, too");
}

#[test]
fn bytes_that_are_no_credential_are_not_taken_for_one() {
    let acme = acme();
    let sealed = key().seal(&place(&acme), b"{\"password\":\"hunter2\"}");
    let error = key().open_credential(&place(&acme), &Envelope::parse(sealed.as_str()).unwrap()).unwrap_err();
    assert_eq!(error, OpenError::UnexpectedContent);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn two_seals_of_the_same_differ() {
    let acme = acme();
    assert_ne!(key().seal(&place(&acme), b"same"), key().seal(&place(&acme), b"same"));
}

#[test]
fn a_fingerprint_knows_a_credential_again_and_nothing_else() {
    let one = credential(&[("user", "ada"), ("password", "x")]);
    let same = credential(&[("password", "x"), ("user", "ada")]);
    let print = key().fingerprint("label", &one);
    assert_eq!(print, key().fingerprint("label", &same));
    for other in [
        key().fingerprint("label", &credential(&[("user", "ada"), ("password", "y")])),
        key().fingerprint("label", &credential(&[("user", "adapassword"), ("", "x")])),
        key().fingerprint("labe", &one),
        key().fingerprint_bytes("label", &one.encode()),
        other_key().fingerprint("label", &one),
    ] {
        assert_ne!(print, other);
    }
}

#[test]
fn i6_prints_its_id_and_not_its_bytes() {
    assert_eq!(format!("{:?}", key()), format!("DataKey({ID})"));
}

#[test]
fn reads_its_own_ids_only() {
    let made = DataKeyId::new(Timestamp::UNIX_EPOCH, [255; 10]);
    assert_eq!(DataKeyId::parse(made.as_str()), Ok(made));
    for text in ["", "dk_", "kek-00", &ID.to_uppercase(), &ID[1..], &format!("{ID}0"), &ID.replace('0', "g")]
    {
        assert!(DataKeyId::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn opens_what_it_sealed(
        organization in "[a-z0-9][a-z0-9_-]{0,20}",
        row in "\\PC{0,40}",
        generation in 1..=i64::MAX,
        plaintext in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let organization = OrganizationId::parse(&organization).unwrap();
        let generation = Generation::new(generation).unwrap();
        let place = Place { organization: &organization, row: &row, field: "credential", generation };
        let sealed = key().seal(&place, &plaintext);
        let opened = key().open(&place, sealed.as_str()).unwrap();
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
    }

    #[test]
    fn i9_a_sealed_value_opens_only_in_its_own_organization_row_field_and_generation(
        one in ("[a-c]{1,2}", "[a-c]{0,2}", 0..2_usize, 1..3_i64),
        other in ("[a-c]{1,2}", "[a-c]{0,2}", 0..2_usize, 1..3_i64),
    ) {
        let fields = ["a", "ab"];
        let organizations = [&one.0, &other.0].map(|text| OrganizationId::parse(text).unwrap());
        let generations = [one.3, other.3].map(|number| Generation::new(number).unwrap());
        let [here, there] = [(&one, 0), (&other, 1)].map(|(place, index)| Place {
            organization: &organizations[index],
            row: &place.1,
            field: fields[place.2],
            generation: generations[index],
        });
        let opened = key().open(&there, key().seal(&here, b"secret").as_str());
        if one == other {
            prop_assert!(opened.is_ok());
        } else {
            prop_assert_eq!(opened, Err(OpenError::NotAuthentic));
        }
    }

    #[test]
    fn a_single_flipped_bit_is_noticed(position in 0..SEALED.len(), bit in 0..7_u32) {
        let mut bytes = SEALED.as_bytes().to_vec();
        bytes[position] ^= 1 << bit;
        let text = String::from_utf8(bytes).unwrap();
        prop_assert!(key().open(&place(&acme()), &text).is_err());
    }

    #[test]
    fn a_missing_or_an_added_end_is_noticed(cut in 1..SEALED.len(), added in "[A-Za-z0-9_-]{1,4}") {
        let organization = acme();
        prop_assert!(key().open(&place(&organization), &SEALED[..SEALED.len() - cut]).is_err());
        let longer = format!("{SEALED}{added}");
        prop_assert!(key().open(&place(&organization), &longer).is_err());
    }

    #[test]
    fn parts_of_two_values_make_no_third(cut in 0..SEALED.len()) {
        let organization = acme();
        let other = key().seal(&place(&organization), b"correct horse battery staple");
        let spliced = format!("{}{}", &SEALED[..cut], &other.as_str()[cut..]);
        match key().open(&place(&organization), &spliced) {
            Ok(_) => prop_assert!(spliced == SEALED || spliced == other.as_str()),
            Err(error) => prop_assert_eq!(error, OpenError::NotAuthentic),
        }
    }
}
