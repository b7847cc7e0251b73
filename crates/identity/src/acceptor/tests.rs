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
