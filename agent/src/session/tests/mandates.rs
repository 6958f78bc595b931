//! A coordinator that asks for what no operator signed is refused by other hosts, and named.

use proto::facts::Fact;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_takes_no_share_that_no_operator_signed_and_names_who_brought_it() {
    let attic = Host::founder("attic").await;
    let cellar = Host::joiner("cellar", &attic).await;
    let mut members = attic.mesh.members();
    let all = members.wait_for(|members| members.up().count() == 2);
    tokio::time::timeout(WITHIN, all).await.unwrap().unwrap();
    let mut facts = cellar.built.facts.subscribe();
    let session = attic.up().await;
    eventually("a share", async || cellar.sessions.ground.share(session).is_some()).await;
    let good = cellar.sessions.ground.share(session).unwrap();
    let signed = good.mandate.as_ref().expect("it was signed where it was asked for");
    assert_eq!(signed.signer, attic.id());
    assert!(attic.mesh.roll().borrow().set.genesis(session).unwrap().bound);
    let ended = Share { version: good.version + 5, ended: true, ..Share::clone(&good) };
    let bare = Share { mandate: None, ..ended.clone() };
    let foreign = {
        let other = attic.mesh.mandate(&Mandate::never(SessionId([3; 16])));
        Share { mandate: Some(other), ..ended.clone() }
    };
    for (forged, because) in [
        (ended, "no operator ended the session, or one did and machines are to run"),
        (bare, "it carries no mandate"),
        (foreign, "its mandate is another session's"),
    ] {
        let request = Request::PutShare(Box::new(forged));
        let answer = attic.mesh.call(cellar.id(), request, WITHIN).await.unwrap();
        assert_eq!(answer, Answer::Refused(Refusal::Unsigned(because.into())));
    }
    assert_eq!(cellar.sessions.ground.share(session).unwrap(), good, "it goes on with what it has");
    let told = async {
        loop {
            if let Fact::ShareRefused { coordinator, because, .. } = facts.recv().await.unwrap() {
                break (coordinator, because);
            }
        }
    };
    let (coordinator, because) = tokio::time::timeout(WITHIN, told).await.unwrap();
    assert_eq!(coordinator, "attic");
    assert_eq!(because, "no operator ended the session, or one did and machines are to run");
    // A mandate that somebody else signed is not handed on.
    let mandate = Some(Box::new(cellar.mesh.mandate(&Mandate::never(session))));
    let answer = super::super::requests::answer(
        &attic.sessions.requests,
        attic.id(),
        Request::Down { session, mandate },
    );
    assert!(matches!(answer.await, Answer::Refused(Refusal::Unsigned(_))));
    // An operator ends it, on the host that is asked.
    cellar.app.down(session).await.unwrap();
    eventually("the end", async || cellar.sessions.ground.share(session).is_none()).await;
    for host in [attic, cellar] {
        host.stop().await;
    }
}
