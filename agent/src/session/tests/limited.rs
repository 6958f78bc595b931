//! Members that may not do everything: those whom they ask refuse, and nobody believes them.

use proto::trust::Capability;

use super::*;

/// Asks another host, as an agent that was changed would: its own refuses nothing before it is sent.
async fn ask(from: &Host, to: &Host, request: Request) -> Answer {
    from.mesh.call(to.id(), request, WITHIN).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_may_only_run_and_store_neither_begins_nor_changes_nor_ends_nor_reads_sessions() {
    let attic = Host::founder("attic").await;
    let may = May::only([Capability::Run, Capability::Store]);
    let (shed, cellar) = (Host::limited("shed", &attic, may).await, Host::joiner("cellar", &attic).await);
    let session = attic.up().await;
    for host in [&shed, &cellar] {
        eventually("a share", async || host.sessions.ground.share(session).is_some()).await;
    }
    let (part, full) =
        (shed.sessions.ground.share(session).unwrap(), cellar.sessions.ground.share(session).unwrap());
    assert!(part.ssh_seed == [0; 32] && full.ssh_seed != [0; 32], "no key that opens machines");
    let (intent, replace) = (Box::new(intent()), Replace::default());
    let operate = [
        Request::State(session),
        Request::Plan { session, intent: intent.clone(), replace: replace.clone() },
        Request::Up { session, intent, index: None, replace, contents: Default::default(), mandate: None },
        Request::Wish { session, machine: "web-1".parse().unwrap(), run: false, mandate: None },
        Request::Down { session, mandate: None },
    ];
    for request in operate {
        let answer = ask(&shed, &attic, request).await;
        assert_eq!(answer, Answer::Refused(Refusal::MayNot(Capability::Operate)));
    }
    let known = |members: &mesh::Members| members.hosts.get(&cellar.id()).map(|cellar| cellar.state);
    eventually("they meet", async || known(&shed.mesh.members().borrow()) == Some(mesh::MemberState::Up))
        .await;
    // It states a birth of its own and speaks for that session: nobody takes a share or opens a log.
    let forged = shed.bear();
    let vote = [
        Request::PutShare(Box::new(share(forged, 1))),
        Request::OpenVoter { session: forged, name: name("shop"), outdated: None },
    ];
    for request in vote {
        let answer = ask(&shed, &cellar, request).await;
        assert_eq!(answer, Answer::Refused(Refusal::MayNot(Capability::Vote)));
    }
    assert!(cellar.sessions.ground.share(forged).is_none() && cellar.sessions.table.log(forged).is_none());
    let other = Topology { session: name("other"), groups: BTreeMap::new() };
    let begun =
        Parcel { intent: Intent { topology: other, ..super::intent() }, contents: Default::default() };
    let refused = shed.app.up(begun, Default::default(), None).await.unwrap_err();
    let because = "the host that asks is not allowed to operate sessions: its certificate limits it";
    assert_eq!(refused.because.as_deref(), Some(because));
    assert_eq!(refused.next.as_deref(), Some("agent host list -v    shows which hosts may"));
    let ended = shed.app.down(session).await.unwrap_err();
    assert_eq!(ended.because.as_deref(), Some(because));
    // Who may does all of it, from any host.
    cellar.app.down(session).await.unwrap();
    for host in [attic, shed, cellar] {
        host.stop().await;
    }
}
