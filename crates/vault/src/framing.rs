//! Several byte strings as one, so that no two lists of strings give the same bytes: each part stands behind
//! its length, eight bytes, most significant first.

/// The parts, one after the other.
pub(crate) fn join<const N: usize>(parts: [&[u8]; N]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| joined_len(part)).sum());
    for part in parts {
        push(&mut joined, part);
    }
    joined
}

/// How many bytes a part takes.
pub(crate) const fn joined_len(part: &[u8]) -> usize {
    size_of::<u64>() + part.len()
}

/// Appends one part.
pub(crate) fn push(buffer: &mut Vec<u8>, part: &[u8]) {
    buffer.extend_from_slice(&length(part));
    buffer.extend_from_slice(part);
}

/// What stands in front of a part.
pub(crate) const fn length(part: &[u8]) -> [u8; 8] {
    (part.len() as u64).to_be_bytes()
}

/// Takes the first part off the bytes; `None` if there is no whole one.
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (part, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_byte_from_one_part_to_the_next_changes_the_whole() {
        assert_ne!(join([b"ab", b"c"]), join([b"a", b"bc"]));
        assert_ne!(join([b"", b"a"]), join([b"a", b""]));
    }

    #[test]
    fn parts_are_taken_off_as_they_were_put_on() {
        let joined = join([b"ab", b"", b"c"]);
        let mut rest = joined.as_slice();
        assert_eq!(take(&mut rest), Some(&b"ab"[..]));
        assert_eq!(take(&mut rest), Some(&b""[..]));
        assert_eq!(take(&mut rest), Some(&b"c"[..]));
        assert_eq!(take(&mut rest), None);
        assert_eq!(take(&mut &joined[..9]), None);
        assert_eq!(take(&mut &[0xff; 9][..]), None);
    }
}
