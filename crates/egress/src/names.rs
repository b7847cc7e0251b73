//! Names that are refused whatever DNS says about them.

use crate::Refusal;

/// Zones that mean something near the machine, or nothing at all. Each is refused with all names below it.
const LOCAL_ZONES: &[&str] = &[
    "localhost",
    "local",
    "localdomain",
    "internal",
    "svc",
    "cluster.local",
    "consul",
    "lan",
    "corp",
    "home",
    "intranet",
    "private",
    "home.arpa",
    "onion",
    "in-addr.arpa",
    "ip6.arpa",
    "test",
    "invalid",
];

/// Judges a host's name, or a name that it is an alias of: lower case, without a final dot.
pub(crate) fn judge(name: &str) -> Result<(), Refusal> {
    if is_local(name) {
        return Err(Refusal::LocalName);
    }
    if !name.contains('.') {
        return Err(Refusal::SingleLabel);
    }
    Ok(())
}

fn is_local(name: &str) -> bool {
    LOCAL_ZONES.iter().any(|zone| is_within(name, zone))
}

/// Whether a name is a zone's own or below it.
pub(crate) fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_local_zone_and_all_below_it() {
        for zone in LOCAL_ZONES {
            for name in [(*zone).to_owned(), format!("a.{zone}"), format!("a.b.{zone}")] {
                assert_eq!(judge(&name), Err(Refusal::LocalName), "{name}");
            }
            assert_eq!(judge(&format!("x{zone}.example.com")), Ok(()));
            assert_eq!(judge(&format!("{zone}.example.com")), Ok(()));
        }
    }

    #[test]
    fn tells_a_zone_from_a_name_that_ends_like_it() {
        assert_eq!(judge("example.mysvc"), Ok(()));
        assert_eq!(judge("example.notlocalhost"), Ok(()));
        assert_eq!(judge("intranets"), Err(Refusal::SingleLabel));
    }
}
