use proptest::prelude::*;

use super::*;
use crate::Settings;

fn rules() -> Rules {
    Rules::new(&Settings { extra_ports: vec![1, 65535], ..Settings::default() }).unwrap()
}

fn parse(text: &str) -> Result<Target, Refusal> {
    Target::parse(text, &rules())
}

#[test]
fn reads_what_was_typed_but_for_the_case_of_the_host() {
    for (text, url) in [
        ("https://example.com", "https://example.com/"),
        ("https://example.com/", "https://example.com/"),
        ("HTTPS://API.Example.COM:443/V1?Q=R", "https://api.example.com/V1?Q=R"),
        ("https://example.com:8443/a;b=c/@d:e/*'()!$&+,", "https://example.com:8443/a;b=c/@d:e/*'()!$&+,"),
        ("https://example.com:65535/?a=b?c/d", "https://example.com:65535/?a=b?c/d"),
        ("https://example.com//a//b", "https://example.com//a//b"),
        ("https://example.com/%C3%A9%20%2F...", "https://example.com/%C3%A9%20%2F..."),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700:4700::1111]:8443/", "https://[2606:4700:4700::1111]:8443/"),
        ("https://xn--bcher-kva.example.com/", "https://xn--bcher-kva.example.com/"),
        ("https://XN--BCHER-KVA.example.com/", "https://xn--bcher-kva.example.com/"),
        ("https://r3---sn-abc.example.com/", "https://r3---sn-abc.example.com/"),
        ("https://r3---sn-abc.xn--bcher-kva.example/", "https://r3---sn-abc.xn--bcher-kva.example/"),
        ("https://a.b-1.example/", "https://a.b-1.example/"),
        ("https://0x.example.com/", "https://0x.example.com/"),
    ] {
        assert_eq!(parse(text).unwrap().to_url(), url, "{text}");
    }
}

#[test]
fn refuses_by_name_what_a_lenient_parser_would_repair() {
    let long = format!("https://example.com/{}", "p".repeat(2048 - 19));
    assert_eq!(parse(&long[..2048]).map(drop), Ok(()));
    for (text, refusal) in [
        (long.as_str(), Refusal::TooLong),
        ("", Refusal::NotAbsolute),
        ("https://example.com/\t", Refusal::Characters),
        (" https://example.com/", Refusal::Characters),
        ("https://example.com/é", Refusal::Characters),
        ("https://example.com\\", Refusal::Backslash),
        ("https://example.com/%", Refusal::Escape),
        ("https://example.com/%2", Refusal::Escape),
        ("https://example.com/%zz", Refusal::Escape),
        ("https://example.com/%+1", Refusal::Escape),
        ("https://example.com/%0a", Refusal::Escape),
        ("https://example.com/%7F", Refusal::Escape),
        ("https://example.com/?a=%00", Refusal::Escape),
        ("https:example.com", Refusal::NotAbsolute),
        ("https:/example.com", Refusal::NotAbsolute),
        ("https:///example.com", Refusal::NotAbsolute),
        ("https://", Refusal::NotAbsolute),
        ("https://?a", Refusal::NotAbsolute),
        ("://example.com", Refusal::Scheme),
        ("ftp://example.com/", Refusal::Scheme),
        ("http://example.com/", Refusal::Scheme),
        ("https://@example.com/", Refusal::UserInfo),
        ("https://a:b@example.com/", Refusal::UserInfo),
        ("https://example.com/#", Refusal::Fragment),
        ("https://example.com#a", Refusal::Fragment),
        ("https://example.com?a", Refusal::Path),
        ("https://example.com/a|b", Refusal::Path),
        ("https://example.com/<a>", Refusal::Path),
        ("https://example.com/{a}", Refusal::Path),
        ("https://example.com/?a[]=b", Refusal::Path),
        ("https://example.com/?a=\"b\"", Refusal::Path),
        ("https://example.com/a/../b", Refusal::Path),
        ("https://example.com/..", Refusal::Path),
        ("https://example.com/./a", Refusal::Path),
        ("https://example.com/%2e%2E/a", Refusal::Path),
        ("https://example.com/.%2e", Refusal::Path),
        ("https://example.com./", Refusal::HostName),
        ("https://.example.com/", Refusal::HostName),
        ("https://a..example.com/", Refusal::HostName),
        ("https://-a.example.com/", Refusal::HostName),
        ("https://a_b.example.com/", Refusal::HostName),
        ("https://a%2eb.example.com/", Refusal::HostName),
        ("https://xn--0.example.com/", Refusal::InternationalName),
        ("https://xn--a.example.com/", Refusal::InternationalName),
        ("https://xn--csbrrrrrrrrrle.xn----bcstale0cotpm/", Refusal::InternationalName),
        ("https://xn--.example.com/", Refusal::HostName),
        ("https://xn--localhost-.example.com/", Refusal::HostName),
        ("https://01.1.1.1/", Refusal::AddressSpelling),
        ("https://1.1.1/", Refusal::AddressSpelling),
        ("https://1.1.1.1.1/", Refusal::AddressSpelling),
        ("https://1.1.1.0x1/", Refusal::AddressSpelling),
        ("https://example.0x/", Refusal::AddressSpelling),
        ("https://example.1/", Refusal::AddressSpelling),
        ("https://[2606:4700:4700:0::1111]/", Refusal::AddressSpelling),
        ("https://[2606:4700:4700::1111%25eth0]/", Refusal::AddressSpelling),
        ("https://[1.1.1.1]/", Refusal::AddressSpelling),
        ("https://[2606:4700:4700::1111]x/", Refusal::AddressSpelling),
        ("https://2606:4700:4700::1111/", Refusal::AddressSpelling),
        ("https://example/", Refusal::SingleLabel),
        ("https://example.internal/", Refusal::LocalName),
        ("https://example.com:/", Refusal::PortSyntax),
        ("https://example.com:0443/", Refusal::PortSyntax),
        ("https://example.com:+443/", Refusal::PortSyntax),
        ("https://example.com:0/", Refusal::PortSyntax),
        ("https://example.com:65536/", Refusal::PortSyntax),
        ("https://example.com:443:443/", Refusal::PortSyntax),
        ("https://example.com:80/", Refusal::Port),
        ("https://example.com:2/", Refusal::Port),
        ("https://127.0.0.1/", Refusal::Loopback),
    ] {
        assert_eq!(parse(text).map(drop), Err(refusal), "{text}");
    }
}

#[test]
fn shows_its_origin_and_hides_the_rest() {
    let target = parse("https://example.com:8443/secret?token=secret").unwrap();
    assert_eq!(target.origin().to_string(), "https://example.com:8443");
    assert_eq!(format!("{target:?}"), "Target(https://example.com:8443, …)");
    assert_eq!(target.path_and_query(), "/secret?token=secret");
}

/// The parsers on the way to the wire, and the one that most of the world uses, must read the same URL.
fn agrees_with_other_parsers(target: &Target) {
    let text = target.to_url();
    let other = url::Url::parse(&text).unwrap();
    assert_eq!(other.host_str(), Some(target.host().to_string().as_str()), "{text}");
    assert_eq!(other.port_or_known_default(), Some(target.port()), "{text}");
    assert_eq!(other.path(), target.path_and_query().split('?').next().unwrap(), "{text}");
    assert!(other.username().is_empty() && other.password().is_none() && other.fragment().is_none());
    let wire: http::Uri = text.parse().unwrap();
    assert_eq!(wire.host(), Some(target.host().to_string().as_str()), "{text}");
    assert_eq!(wire.path_and_query().map(|path| path.as_str()), Some(target.path_and_query()), "{text}");
    assert_eq!(parse(&text).as_ref(), Ok(target), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_accepted_is_read_the_same_by_others(
        text in "(https|HTTPS|http)://[a-z0-9.\\-\\[\\]:@%xX]{1,20}(\\.example\\.com)?(:[0-9]{0,5})?([/?#][!-~]{0,20})?"
    ) {
        if let Ok(target) = parse(&text) {
            agrees_with_other_parsers(&target);
        }
    }

    #[test]
    fn likely_urls_are_read_the_same_by_others(
        text in "https://([a-z0-9-]{1,8}\\.){1,3}[a-z]{2,4}(:443|:8443)?(/[A-Za-z0-9._~%!$&'()*+,;=:@/-]{0,20}(\\?[ -~]{0,10})?)?"
    ) {
        if let Ok(target) = parse(&text) {
            agrees_with_other_parsers(&target);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        let _ = parse(&text);
    }
}
