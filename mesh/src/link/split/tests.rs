//! Packets cut in two and put together again, in any order, with losses.

use super::*;
use proptest::prelude::*;

const TAG: Tag = Tag { session: SessionId([7; 16]), epoch: Epoch(3) };

fn halves(length: usize, id: u32) -> (Bytes, [Datagram; 2]) {
    let packet: Bytes = (0..length).map(|at| at as u8).collect();
    match split(TAG, &packet, id, 1162) {
        Split::Halves(first, second) => {
            assert!(first.len() <= 1162 && second.len() <= 1162);
            (packet, [read(first).unwrap(), read(second).unwrap()])
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_packet_that_fits_goes_whole() {
    let packet = Bytes::from_static(&[5; 1280]);
    let Split::Whole(datagram) = split(TAG, &packet, 0, 1280 + 25) else { panic!() };
    let read = read(datagram).unwrap();
    assert_eq!(Joiner::default().join(read, Instant::now()), Some((TAG, packet)));
}

#[test]
fn a_guests_largest_packet_crosses_quics_smallest_path_in_two_in_any_order() {
    let now = Instant::now();
    let (packet, [first, second]) = halves(1280, 1);
    let mut joiner = Joiner::default();
    assert_eq!(joiner.join(first.clone(), now), None);
    assert_eq!(joiner.join(second.clone(), now), Some((TAG, packet.clone())));
    assert_eq!(joiner.join(second, now), None);
    assert_eq!(joiner.join(first, now), Some((TAG, packet)));
    assert!(joiner.waiting.is_empty());
}

#[test]
fn halves_of_different_packets_machines_or_times_do_not_mix() {
    let now = Instant::now();
    let (packet, [first, second]) = halves(1280, 1);
    let (_, [_, other_second]) = halves(1270, 2);
    let mut joiner = Joiner::default();
    assert_eq!(joiner.join(first.clone(), now), None);
    assert_eq!(joiner.join(other_second, now), None);
    let newer = Datagram { tag: Tag { epoch: Epoch(4), ..TAG }, ..second.clone() };
    assert_eq!(joiner.join(newer, now), None);
    assert_eq!(joiner.join(second.clone(), now + WAIT_FOR), None, "too late");
    assert_eq!(joiner.join(first, now + WAIT_FOR), Some((TAG, packet)));
}

#[test]
fn lost_halves_take_bounded_room() {
    let now = Instant::now();
    let mut joiner = Joiner::default();
    for id in 0..1000 {
        let (_, [first, _]) = halves(1280, id);
        assert_eq!(joiner.join(first, now + Duration::from_millis(id.into())), None);
        assert!(joiner.waiting.len() <= MAX_WAITING);
    }
    let (packet, [_, second]) = halves(1280, 999);
    assert_eq!(joiner.join(second, now + Duration::from_millis(1000)), Some((TAG, packet)));
}

#[test]
fn what_does_not_fit_in_two_is_said_so() {
    assert_eq!(split(TAG, &Bytes::from_static(&[0; 1280]), 0, 600), Split::TooLong);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_ignored(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)
    ) {
        let mut joiner = Joiner::default();
        for bytes in datagrams {
            if let Some(datagram) = read(bytes.into()) {
                drop(joiner.join(datagram, Instant::now()));
            }
        }
    }
}
