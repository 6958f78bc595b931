//! The golden bytes of every message of this crate, in `golden.txt`, and what they may lack, in `golden.fields`.
//! After `UPDATE_GOLDEN=1 cargo test` both have what is new; see `bytes` for what is asked of them.

#[path = "../../../proto/src/wire/tests/golden/mod.rs"]
pub(crate) mod bytes;

use proto::{
    id::{Digest, HostId},
    level::Level,
    reachability::ways::Known,
    wire::{
        self,
        record::{Reach, RelayOffer},
    },
};

use crate::{join, members::cache::Places, net, quorum};
use bytes::{Files, Sample};

const FILES: Files = Files(concat!(env!("CARGO_MANIFEST_DIR"), "/src/golden.txt"));

fn samples() -> Vec<Sample> {
    let mut samples = quorum::tests::golden::samples();
    samples.extend(join::tests::samples(reach()));
    samples.extend(net::tests::headers());
    let known = Known { reach: reach(), proved: reach().addresses, level: Some(Level::from(2)) };
    samples.push(Sample::message("places.one", Places { known: [(HostId([1; 32]), known)].into() }));
    samples
}

fn reach() -> Reach {
    let offer =
        RelayOffer { url: "http://192.0.2.7:7440".into(), qad_port: 7441, certificate: Digest([5; 32]) };
    Reach {
        addresses: vec!["192.0.2.7:7440".parse().unwrap(), "[2001:db8::7]:7440".parse().unwrap()],
        relays: vec!["http://192.0.2.7:7440".into()],
        serves: Some(offer),
    }
}

#[test]
fn every_message_that_was_ever_written_is_read_as_what_it_was() {
    bytes::written(&FILES, &samples());
}

#[test]
fn what_only_a_later_version_has_is_skipped_or_said_and_never_read_as_something_else() {
    bytes::tomorrow(&samples());
}

#[test]
fn a_message_of_an_earlier_version_lacks_fields_and_is_read() {
    bytes::yesterday(&samples());
}

#[test]
fn what_may_be_absent_or_unknown_is_as_recorded() {
    bytes::fields(&FILES, &samples());
}

#[test]
fn every_variant_that_is_known_has_golden_bytes() {
    bytes::complete(&samples());
}

#[test]
fn damaged_messages_end_nobody() {
    bytes::damaged(&samples());
}
