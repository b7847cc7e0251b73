use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use crate::convert::Reader;

const DEFAULT: i64 = 100;
const MAX: i32 = 500;

/// A page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page<T> {
    /// How many at most.
    pub size: i64,
    /// Behind which one.
    pub after: Option<T>,
}

/// Reads and writes page tokens of one list with one set of filters. A token is where the page before ended, and
/// the mark of the list that it belongs to.
#[derive(Debug)]
pub struct PageToken {
    mark: [u8; 8],
}

impl PageToken {
    /// The tokens of a list, by its name and its request without the page.
    pub fn of<M: Message>(list: &str, filters: &M) -> Self {
        // FNV-1a: the mark tells one list from another; it keeps no one from anything.
        let mut mark: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in list.bytes().chain([0]).chain(filters.encode_to_vec()) {
            mark = (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self { mark: mark.to_be_bytes() }
    }

    /// Reads which page is asked for.
    pub fn read<T>(
        &self,
        reader: &mut Reader,
        size: i32,
        token: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Page<T> {
        if !(0..=MAX).contains(&size) {
            reader.wrong("page_size", "must be 0 to 500");
        }
        let after = if token.is_empty() { None } else { self.decode(token).and_then(|text| parse(&text)) };
        if after.is_none() && !token.is_empty() {
            reader.wrong("page_token", "is not a token of this list with these filters");
        }
        Page { size: if size == 0 { DEFAULT } else { size.into() }, after }
    }

    /// Cuts a list that was read one longer than the page, and writes the token of the next page.
    pub fn next<T>(&self, mut items: Vec<T>, size: i64, last: impl FnOnce(&T) -> String) -> (Vec<T>, String) {
        let size = usize::try_from(size).unwrap_or_default();
        if items.len() <= size {
            return (items, String::new());
        }
        items.truncate(size);
        let token = items.last().map(last).map(|last| self.encode(&last)).unwrap_or_default();
        (items, token)
    }

    /// The token that stands for a place.
    pub fn encode(&self, place: &str) -> String {
        URL_SAFE_NO_PAD.encode([&self.mark, place.as_bytes()].concat())
    }

    pub(super) fn decode(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        String::from_utf8(bytes.strip_prefix(&self.mark)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use keyholder_proto::v1;

    use super::*;

    fn tokens(organization_id: &str) -> PageToken {
        let request = v1::ListGrantsRequest { organization_id: organization_id.into(), ..Default::default() };
        PageToken::of("ListGrants", &request)
    }

    #[test]
    fn a_token_is_good_for_its_own_list_and_filters_only() {
        let (page, token) = tokens("acme").next(vec![1, 2, 3], 2, ToString::to_string);
        assert_eq!(page, [1, 2]);
        let read = |tokens: PageToken, token: &str| {
            let mut reader = Reader::new();
            let page = tokens.read(&mut reader, 2, token, |text| text.parse::<i32>().ok());
            reader.finish(Some(page.after)).ok()
        };
        assert_eq!(read(tokens("acme"), &token), Some(Some(2)));
        assert_eq!(read(tokens("acme"), ""), Some(None));
        assert_eq!(read(tokens("other"), &token), None);
        assert_eq!(read(tokens("acme"), "nonsense"), None);
        assert_eq!(read(tokens("acme"), &format!("{token}AA")), None);
    }

    #[test]
    fn a_place_has_one_token_and_no_other_spelling_of_it() {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=";
        let tokens = tokens("acme");
        // Places of every length modulo 3, so that the last character holds 6, 4 and 2 bits.
        for place in ["", "a", "ab", "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b"] {
            let token = tokens.encode(place);
            assert_eq!(tokens.decode(&token).as_deref(), Some(place));
            let mut spellings: Vec<String> =
                ["=", "==", "A", "\n", " "].iter().map(|more| format!("{token}{more}")).collect();
            for at in 0..token.len() {
                for character in ALPHABET {
                    let mut spelling = token.clone().into_bytes();
                    spelling[at] = *character;
                    spellings.push(String::from_utf8(spelling).unwrap());
                }
            }
            for spelling in spellings.iter().filter(|spelling| **spelling != token) {
                assert_ne!(tokens.decode(spelling).as_deref(), Some(place), "{spelling} for {token}");
            }
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        assert_eq!(tokens("acme").next(vec![1, 2], 2, ToString::to_string), (vec![1, 2], String::new()));
    }
}
