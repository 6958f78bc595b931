//! Tokens, and who gets in by them.

use std::time::{Duration, Instant};

use proto::{
    seal::Seed,
    trust::{JoinRefusal, May, Token},
};

use super::harness::*;
use crate::{JoinError, Joined, MemberState, Serve, TokenWish, TokensError};

/// A refusal must come while the user still looks at the screen.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn refused(token: &str) -> (JoinError, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let error = match try_join(dir.path(), "cellar", token).await {
        Err(error) => error,
        Ok(_) => panic!("let in"),
    };
    assert!(started.elapsed() < AT_ONCE, "took {:?}", started.elapsed());
    let secret: Token = token.parse().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(&token[5..40]) && !text.contains(&hex(&secret.seed.0)), "{text}");
    assert!(!crate::identity::exists(dir.path()));
    (error, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_by_a_token_and_both_see_each_other() {
    let attic = Host::founder("attic", Serve::Off).await;
    let cellar = Host::joiner("cellar", &attic.token().await).await;
    for (host, other) in [(&attic, "cellar"), (&cellar, "attic")] {
        host.sees(other, |members| {
            let member = members.hosts.values().find(|member| member.name == name(other));
            member.is_some_and(|member| {
                member.state == MemberState::Up && member.path.is_some() && member.record.is_some()
            })
        })
        .await;
    }
    assert_eq!(cellar.mesh.mesh_name(), Some(name("home")));
    assert_eq!(attic.mesh.tokens()[0].uses, 1);
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_another_secret_is_refused_at_once() {
    let attic = Host::founder("attic", Serve::Off).await;
    let mut token: Token = attic.token().await.parse().unwrap();
    token.seed = Seed([3; 32]);
    let (error, _) = refused(&token.to_string()).await;
    assert!(matches!(error, JoinError::Refused(JoinRefusal::UnknownToken)), "{error:?}");
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_or_revoked_token_is_refused_at_once() {
    let attic = Host::founder("attic", Serve::Off).await;
    let wanted = TokenWish { expires_ms: 0, uses: 1, admin: false, may: May::ALL };
    let expired = attic.mesh.token_create(wanted).await.unwrap();
    let (error, _) = refused(&expired.text).await;
    assert!(matches!(error, JoinError::Refused(JoinRefusal::Expired)), "{error:?}");
    let wanted = TokenWish { expires_ms: 60_000, ..wanted };
    let revoked = attic.mesh.token_create(wanted).await.unwrap();
    attic.mesh.token_revoke(&revoked.id).unwrap();
    let (error, _) = refused(&revoked.text).await;
    assert!(matches!(error, JoinError::Refused(JoinRefusal::Revoked)), "{error:?}");
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_reveals_nothing_to_a_host_of_another_mesh() {
    let (attic, stranger) =
        (Host::founder("attic", Serve::Off).await, Host::founder("stranger", Serve::Off).await);
    let mut token: Token = attic.token().await.parse().unwrap();
    let theirs: Token = stranger.token().await.parse().unwrap();
    token.bootstrap = theirs.bootstrap;
    let (error, _) = refused(&token.to_string()).await;
    assert!(matches!(error, JoinError::Refused(JoinRefusal::NotMember)), "{error:?}");
    attic.stop().await;
    stranger.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_name_is_refused_and_a_used_up_token_too() {
    let attic = Host::founder("attic", Serve::Off).await;
    let once = TokenWish { expires_ms: 60_000, uses: 1, admin: false, may: May::ALL };
    let token = attic.mesh.token_create(once).await.unwrap().text;
    let dir = tempfile::tempdir().unwrap();
    let error = try_join(dir.path(), "attic", &token).await.err().unwrap();
    assert!(matches!(error, JoinError::Refused(JoinRefusal::NameTaken(_))), "{error:?}");
    let cellar = Host::joiner("cellar", &token).await;
    let (error, _) = refused(&token).await;
    assert!(matches!(error, JoinError::Refused(JoinRefusal::UsedUp)), "{error:?}");
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_no_issuer_asks_one_and_may_make_no_token() {
    let attic = Host::founder("attic", Serve::Off).await;
    let text = attic.token().await;
    let cellar = Host::joiner("cellar", &text).await;
    cellar.sees("attic up", |members| members.up().count() == 2).await;
    let error = cellar
        .mesh
        .token_create(TokenWish { expires_ms: 1, uses: 1, admin: false, may: May::ALL })
        .await
        .err()
        .unwrap();
    assert!(matches!(&error, TokensError::NotIssuer(issuers) if *issuers == [name("attic")]), "{error:?}");
    let mut token: Token = text.parse().unwrap();
    token.bootstrap[0].host = cellar.id();
    token.bootstrap[0].addresses = cellar.mesh.reach().borrow().addresses.clone();
    let garden = Host::joiner("garden", &token.to_string()).await;
    garden.sees("three up", |members| members.up().count() == 3).await;
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_pending_while_no_issuer_can_be_reached() {
    let attic = Host::founder("attic", Serve::Off).await;
    let text = attic.token().await;
    let cellar = Host::joiner("cellar", &text).await;
    cellar.sees("attic up", |members| members.up().count() == 2).await;
    let (attic_dir, _) = attic.stop().await;
    cellar.sees("attic gone", |members| members.up().count() == 1).await;
    let mut token: Token = text.parse().unwrap();
    token.bootstrap[0].host = cellar.id();
    token.bootstrap[0].addresses = cellar.mesh.reach().borrow().addresses.clone();
    let dir = tempfile::tempdir().unwrap();
    match try_join(dir.path(), "garden", &token.to_string()).await.unwrap() {
        Joined::Pending { issuers } => assert_eq!(issuers, [name("attic")]),
        Joined::Member { .. } => panic!("let in by nobody"),
    }
    assert_eq!(crate::identity::pending(dir.path()), Some((token.to_string(), name("garden"))));
    let attic = Host::start(attic_dir, "attic", Serve::Off).await;
    attic.sees("cellar up", |members| members.up().count() == 2).await;
    assert!(matches!(try_join(dir.path(), "garden", &token.to_string()).await, Ok(Joined::Member { .. })));
    assert_eq!(crate::identity::pending(dir.path()), None);
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_through_a_relay_alone() {
    let attic = Host::founder("attic", Serve::On).await;
    let offer = attic.mesh.relay().unwrap();
    eventually(attic.mesh.reach(), "attic uses its own relay", |reach| !reach.relays.is_empty()).await;
    let mut token: Token = attic.token().await.parse().unwrap();
    assert_eq!(token.bootstrap[0].relay.as_ref(), Some(&offer));
    token.bootstrap[0].addresses.clear();
    let cellar = Host::joiner("cellar", &token.to_string()).await;
    cellar.sees("attic up", |members| members.up().count() == 2).await;
    let mut wrong = token.clone();
    wrong.seed = Seed([3; 32]);
    let (error, _) = refused(&wrong.to_string()).await;
    assert!(matches!(error, JoinError::RefusedByRelay(_)), "{error:?}");
    attic.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_at_one_of_a_tokens_addresses_does_not_spoil_a_join() {
    let attic = Host::founder("attic", Serve::Off).await;
    let other = Host::founder("other", Serve::Off).await;
    let mut token: Token = attic.token().await.parse().unwrap();
    let there: Token = other.token().await.parse().unwrap();
    token.bootstrap[0].addresses.insert(0, there.bootstrap[0].addresses[0]);
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(try_join(dir.path(), "cellar", &token.to_string()).await, Ok(Joined::Member { .. })));
    attic.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_host_lets_in_one_of_two_that_come_at_once() {
    let attic = Host::founder("attic", Serve::Off).await;
    for round in 0..3 {
        let once = TokenWish { expires_ms: 60_000, uses: 1, admin: false, may: May::ALL };
        let token = attic.mesh.token_create(once).await.unwrap().text;
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let labels = [format!("one-a{round}"), format!("two-a{round}")];
        let (one, two) = tokio::join!(
            try_join(dirs[0].path(), &labels[0], &token),
            try_join(dirs[1].path(), &labels[1], &token)
        );
        let refused = match (one, two) {
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
            (Ok(_), Ok(_)) => panic!("both are in"),
            (Err(one), Err(two)) => panic!("{one}; {two}"),
        };
        assert!(matches!(refused, JoinError::Refused(JoinRefusal::UsedUp)), "{refused:?}");
    }
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_hosts_that_come_at_once_all_get_in() {
    let attic = Host::founder("attic", Serve::Off).await;
    let many = TokenWish { expires_ms: 3_600_000, uses: 100, admin: false, may: May::ALL };
    let token = attic.mesh.token_create(many).await.unwrap().text;
    let dir = tempfile::tempdir().unwrap();
    let joins = (0..100_u64).map(|number| {
        let (place, token) = (dir.path().join(number.to_string()), &token);
        async move {
            // Within two seconds, as computers boot that got their power back together.
            tokio::time::sleep(std::time::Duration::from_millis(number * 20)).await;
            std::fs::create_dir(&place).unwrap();
            try_join(&place, &format!("host-a{number}"), token).await
        }
    });
    let failed: Vec<String> = futures::future::join_all(joins)
        .await
        .into_iter()
        .filter_map(|joined| match joined {
            Ok(Joined::Member { .. }) => None,
            Ok(Joined::Pending { .. }) => Some("pending".to_owned()),
            Err(error) => Some(error.to_string()),
        })
        .collect();
    assert!(failed.is_empty(), "{} of 100 failed: {failed:?}", failed.len());
    assert_eq!(attic.mesh.roll().borrow().members.len(), 101);
    attic.stop().await;
}
