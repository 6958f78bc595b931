//! Ten thousand ways to get in without the token, and none of them does.

use super::*;
use crate::{random::Random, seal::Sig};

/// What an attacker has seen and can make: proofs of others, keys of its own, and any change to what is sent.
fn forge(random: &mut Random, seen: &(Transcript, JoinProof)) -> (Transcript, JoinProof) {
    let own = Seed([100 + random.between(0, 50) as u8; 32]);
    let fresh = |random: &mut Random| {
        let mut bytes = [0; 32];
        bytes.iter_mut().for_each(|byte| *byte = random.between(0, 255) as u8);
        bytes
    };
    let (mut transcript, mut proof) = seen.clone();
    match random.between(0, 9) {
        // The same proof on another connection, at another door, by another host, in another mesh.
        0 => transcript.hello = fresh(random),
        1 => transcript.offer = fresh(random),
        2 => transcript.channel = fresh(random),
        3 => transcript.joiner = host(&own),
        4 => transcript.member = host(&own),
        5 => transcript.mesh = MeshId(fresh(random)),
        // Its own host with a token that it does not have.
        6 => {
            transcript.joiner = host(&own);
            proof = transcript.prove(name("spy"), &own, &own);
            proof.token = TOKEN.public();
        }
        // Its own signature under the token's, and the other way round.
        7 => {
            transcript.joiner = host(&own);
            proof.host_sig = transcript.prove(name("spy"), &own, &own).host_sig;
        }
        // Another label under the same signatures.
        8 => proof.name = name("spy"),
        _ => {
            let mut sig = [0; 64];
            sig[..32].copy_from_slice(&fresh(random));
            sig[32..].copy_from_slice(&fresh(random));
            match random.between(0, 1) {
                0 => proof.token_sig = Sig(sig),
                _ => proof.host_sig = Sig(sig),
            }
        }
    }
    (transcript, proof)
}

#[test]
fn ten_thousand_forged_and_replayed_proofs_let_nobody_in() {
    let (set, mut random) = (set(), Random::new(9));
    let seen = (transcript(), transcript().prove(name("shed"), &TOKEN, &SHED));
    assert_eq!(seen.0.check(&seen.1), Ok(()), "the one that was seen is good where it belongs");
    for round in 0..10_000 {
        let (at_the_door, proof) = forge(&mut random, &seen);
        let checked = at_the_door.check(&proof);
        let entered = checked.and_then(|()| admit(&set, at_the_door.joiner, &proof, true, NOW));
        assert!(entered.is_err(), "round {round}: {at_the_door:?} {proof:?}");
    }
    // Good signatures of a token that nobody granted.
    let (own, at_the_door) = (Seed([100; 32]), Transcript { joiner: host(&Seed([100; 32])), ..transcript() });
    let proof = at_the_door.prove(name("spy"), &own, &own);
    assert_eq!(at_the_door.check(&proof), Ok(()));
    assert_eq!(admit(&set, at_the_door.joiner, &proof, true, NOW), Err(JoinRefusal::UnknownToken));
}
