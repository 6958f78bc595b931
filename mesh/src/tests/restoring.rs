//! The host with the root key is gone, and somebody has its recovery phrase.

use std::path::Path;

use proto::trust::{Bootstrap, JoinRefusal, Token};
use tempfile::TempDir;

use super::harness::*;
use crate::{
    JoinError, MemberState, Ports, RestoreError, Restored, Restoring, RightsError, Serve,
    identity::{self, phrase},
    restore,
};

/// A mesh whose founder is gone: the phrase, a member that is left, a token that names it.
async fn orphaned() -> (String, Host, Token) {
    let (attic, phrase) = Host::founder_with_phrase("attic", Serve::Off).await;
    let text = attic.token().await;
    let cellar = Host::joiner("cellar", &text).await;
    cellar.sees("attic up", |members| members.up().count() == 2).await;
    attic.kill().await;
    let addresses = cellar.mesh.reach().borrow().addresses.clone();
    let bootstrap = vec![Bootstrap { host: cellar.id(), addresses, relay: None }];
    (phrase, cellar, Token { bootstrap, ..text.parse().unwrap() })
}

async fn restored(dir: &Path, label: &str, phrase: &str, via: &Token) -> Result<Restored, RestoreError> {
    let restoring = Restoring {
        data: dir.to_owned(),
        phrase: phrase.to_owned(),
        founding: founding(label),
        renamed: Some(name(label)),
        via: Some(via.to_string()),
        ports: Ports::Loopback,
    };
    tokio::spawn(restore(restoring)).await.unwrap()
}

fn is_up(members: &crate::Members, label: &str) -> bool {
    members.hosts.values().any(|member| member.name == name(label) && member.state == MemberState::Up)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_the_root_key_back_while_it_runs_and_admits_and_makes_issuers() {
    let (phrase, cellar, _) = orphaned().await;
    let (_, other) = identity::create(TempDir::new().unwrap().path(), founding("attic"), now()).unwrap();
    let refused = cellar.mesh.restore(&other);
    assert!(matches!(refused, Err(RestoreError::Rights(RightsError::OtherMesh))), "{refused:?}");
    assert!(matches!(cellar.mesh.restore(&phrase[1..]), Err(RestoreError::Phrase(_))));
    cellar.mesh.restore(&phrase).unwrap();
    let again = cellar.mesh.restore(&phrase);
    assert!(matches!(again, Err(RestoreError::Rights(RightsError::Already(_)))), "{again:?}");
    let garden = Host::joiner("garden", &cellar.token().await).await;
    cellar.mesh.set_issuer(garden.id(), true).unwrap();
    garden.sees("may admit others", |members| members.hosts[&garden.id()].issuer).await;
    garden.stop().await;
    let (dir, label) = cellar.stop().await;
    assert!(identity::load(dir.path()).unwrap().holds_root(), "also after a restart of {label}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_computer_with_the_phrase_is_taken_in_where_no_issuer_is_left() {
    let (phrase, cellar, via) = orphaned().await;
    let dir = TempDir::new().unwrap();
    let taken = restored(dir.path(), "attic", &phrase, &via).await.err().unwrap();
    assert!(matches!(&taken, RestoreError::Join(JoinError::Refused(JoinRefusal::NameTaken(_)))), "{taken:?}");
    assert!(!identity::exists(dir.path()));
    let home = restored(dir.path(), "loft", &phrase, &via).await.unwrap();
    assert_eq!((home.mesh_name.as_str(), home.others), ("home", 2));
    assert_eq!(home.identity.mesh, via.mesh);
    let loft = Host::start(dir, "loft", Serve::Off).await;
    cellar.sees("loft", |members| is_up(members, "loft")).await;
    assert!(cellar.mesh.members().borrow().hosts[&loft.id()].issuer);
    let garden = Host::joiner("garden", &loft.token().await).await;
    garden.sees("everybody", |members| is_up(members, "loft") && is_up(members, "cellar")).await;
    for host in [garden, loft, cellar] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_restored_alone_meets_the_others_later() {
    let (phrase, cellar, via) = orphaned().await;
    let dir = TempDir::new().unwrap();
    let root = phrase::root(&phrase).unwrap();
    identity::prepare_again(root, dir.path(), founding("loft"), now()).unwrap().commit().unwrap();
    let taken = restored(dir.path(), "cellar", &phrase, &via).await.err().unwrap();
    assert!(matches!(&taken, RestoreError::Join(JoinError::Refused(JoinRefusal::NameTaken(_)))), "{taken:?}");
    let home = restored(dir.path(), "den", &phrase, &via).await.unwrap();
    assert_eq!((home.name.as_str(), home.others), ("den", 2));
    let loft = Host::start(dir, "den", Serve::Off).await;
    cellar.sees("den", |members| is_up(members, "den")).await;
    loft.stop().await;
    cellar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_taken_in_by_the_phrase_of_another_mesh() {
    let (_, cellar, via) = orphaned().await;
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (theirs, phrase) = identity::create(other.path(), founding("loft"), now()).unwrap();
    let refused = restored(dir.path(), "loft", &phrase, &via).await.err().unwrap();
    assert!(matches!(refused, RestoreError::ViaOther), "{refused:?}");
    let lying = Token { mesh: theirs.mesh, ..via };
    let refused = restored(dir.path(), "loft", &phrase, &lying).await.err().unwrap();
    assert!(
        matches!(&refused, RestoreError::Join(JoinError::Refused(JoinRefusal::NotMember))),
        "{refused:?}"
    );
    assert!(!identity::exists(dir.path()));
    cellar.stop().await;
}
