use super::*;

#[test]
fn a_fault_of_one_connection_does_not_pause_the_door() {
    for kind in [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset] {
        assert_eq!(pause_after(&kind.into(), 0), None);
    }
}

#[test]
fn a_shortage_of_descriptors_pauses_ever_longer_up_to_a_second() {
    const EMFILE: i32 = 24;
    let pauses: Vec<_> = (0..40)
        .map(|failures| pause_after(&io::Error::from_raw_os_error(EMFILE), failures).unwrap())
        .collect();
    assert!(pauses[0] > Duration::ZERO);
    assert!(pauses.is_sorted());
    assert!(*pauses.last().unwrap() <= Duration::from_secs(1));
}

#[test]
fn a_share_of_the_handshakes_is_never_so_small_that_strangers_fill_it() {
    let limits = |concurrent| HandshakeLimits {
        concurrent: NonZeroUsize::new(concurrent).unwrap(),
        ..HandshakeLimits::default()
    };
    for (concurrent, runtimes, share) in
        [(256, 2, 128), (256, 8, 64), (256, 64, 64), (16, 4, 16), (256, 0, 256)]
    {
        assert_eq!(
            limits(concurrent).divided_by(runtimes).concurrent.get(),
            share,
            "{concurrent} / {runtimes}"
        );
    }
}
