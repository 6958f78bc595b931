//! Who this host is: its key, its mesh, and the root key where it is held. Files under
//! `DATA/identity`, for their owner only. The one place where the spellings of a host's key
//! (HostId, libp2p PeerId, iroh EndpointId) meet.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use iroh::EndpointId;
use libp2p::PeerId;
use proto::{
    id::{HostId, MeshId, Name},
    seal::Seed,
    time::Timestamp,
    trust::{
        Capabilities, Certificate, Charter, May, MemberSet, Out, Sealed, Statement, Statements, mesh_id,
    },
};

use crate::disk;

pub(crate) mod phrase;

/// A host's place in a mesh, as its files tell it.
#[derive(Clone)]
pub struct Identity {
    /// The data directory it came from.
    pub data: PathBuf,
    /// The mesh.
    pub mesh: MeshId,
    pub(crate) seed: Seed,
    /// A host may get it while it runs, by the recovery phrase.
    root: Arc<OnceLock<Seed>>,
}

/// What a new mesh and its first host are called.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The host's label.
    pub name: Name,
    /// The mesh's label.
    pub mesh_name: Name,
    /// The host's tags.
    pub tags: BTreeMap<String, String>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is one already.
    #[error("this host belongs to a mesh already")]
    Exists,
    /// There is none.
    #[error("this host belongs to no mesh yet")]
    Missing,
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{0} is damaged")]
    Damaged(PathBuf),
}

impl Identity {
    /// Gives the host's id.
    pub fn host(&self) -> HostId {
        HostId(self.seed.public())
    }

    /// Tells whether the mesh's root key is held here.
    pub fn holds_root(&self) -> bool {
        self.root().is_some()
    }

    pub(crate) fn root(&self) -> Option<&Seed> {
        self.root.get()
    }

    /// Stores the mesh's root key.
    pub(crate) fn keep_root(&self, root: &Seed) -> Result<(), IdentityError> {
        write_root(&self.data, root)?;
        // It is the only one that makes this mesh's id.
        self.root.set(root.clone()).ok();
        Ok(())
    }

    pub(crate) fn keypair(&self) -> libp2p::identity::Keypair {
        libp2p::identity::Keypair::ed25519_from_bytes(self.seed.0)
            .expect("every 32 bytes are an ed25519 seed")
    }

    pub(crate) fn secret_key(&self) -> iroh::SecretKey {
        iroh::SecretKey::from_bytes(&self.seed.0)
    }
}

/// Stores the root key of the mesh that the directory belongs to or is about to.
pub(crate) fn write_root(data: &Path, root: &Seed) -> Result<(), IdentityError> {
    write(&root_file(data), &root.0)
}

/// Tells whether the directory has an identity.
pub fn exists(data: &Path) -> bool {
    mesh_file(data).exists()
}

/// A mesh that does not exist yet: its recovery phrase, which is written nowhere, can be shown before
/// the host belongs to it.
pub struct Prepared {
    identity: Identity,
    root: Seed,
    statements: Vec<Sealed>,
    now: Timestamp,
}

impl Prepared {
    /// Gives what the host will be.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Gives the phrase that the mesh's root key can be made of again.
    pub fn recovery(&self) -> String {
        phrase::of(&self.root)
    }

    /// Makes the mesh.
    pub fn commit(self) -> Result<Identity, IdentityError> {
        self.identity.keep_root(&self.root)?;
        store(&self.identity, self.statements, self.now)?;
        Ok(self.identity)
    }
}

/// Makes a mesh with this host as its first member and issuer. Gives the recovery phrase.
pub fn create(data: &Path, founding: Founding, now: Timestamp) -> Result<(Identity, String), IdentityError> {
    let prepared = prepare(data, founding, now)?;
    let phrase = prepared.recovery();
    Ok((prepared.commit()?, phrase))
}

/// Prepares a mesh with this host as its first member and issuer. Writes nothing but the host's key.
pub fn prepare(data: &Path, founding: Founding, now: Timestamp) -> Result<Prepared, IdentityError> {
    by(Seed(rand::random()), data, founding, (now, now))
}

/// Prepares a mesh that was, of its root key, with this host as its only member. What it is called counts only until
/// this host meets another that knows better.
pub(crate) fn prepare_again(
    root: Seed,
    data: &Path,
    founding: Founding,
    now: Timestamp,
) -> Result<Prepared, IdentityError> {
    by(root, data, founding, (now, Timestamp(0)))
}

fn by(
    root: Seed,
    data: &Path,
    founding: Founding,
    (now, called): (Timestamp, Timestamp),
) -> Result<Prepared, IdentityError> {
    if exists(data) {
        return Err(IdentityError::Exists);
    }
    let seed = host_seed(data)?;
    let mesh = mesh_id(&root.public());
    let charter = Charter { name: founding.mesh_name, made: called };
    let certificate = first_certificate(HostId(seed.public()), founding.name, founding.tags, now);
    let statements = [Statement::Charter(charter), Statement::Certificate(certificate)];
    let statements = statements.iter().map(|statement| statement.seal(mesh, &root)).collect();
    let identity = Identity { data: data.to_owned(), mesh, seed, root: Arc::default() };
    Ok(Prepared { identity, root, statements, now })
}

/// Makes a host that holds the root key an issuer.
pub(crate) fn first_certificate(
    host: HostId,
    name: Name,
    tags: BTreeMap<String, String>,
    now: Timestamp,
) -> Certificate {
    Certificate {
        host,
        name,
        tags,
        capabilities: Capabilities::ISSUE,
        serial: 1,
        grant: None,
        since: now,
        not_before: now,
        not_after: None,
        may: May::ALL,
    }
}

/// Reads the identity of a directory.
pub fn load(data: &Path) -> Result<Identity, IdentityError> {
    let file = mesh_file(data);
    let text = read(&file)?.ok_or(IdentityError::Missing)?;
    let text = String::from_utf8(text).map_err(|_| IdentityError::Damaged(file.clone()))?;
    let mesh = text.trim().parse().map_err(|_| IdentityError::Damaged(file))?;
    let seed = key(&host_file(data))?.ok_or_else(|| IdentityError::Damaged(host_file(data)))?;
    // One of another mesh is left of a join that came to nothing.
    let root = key(&root_file(data))?.filter(|root| mesh_id(&root.public()) == mesh);
    let root = root.map_or_else(OnceLock::new, OnceLock::from);
    Ok(Identity { data: data.to_owned(), mesh, seed, root: Arc::new(root) })
}

/// Tells whether everything can be read that makes the directory one host of a mesh. Changes nothing.
pub fn check(data: &Path) -> Result<(), IdentityError> {
    load(data)?;
    let path = statements_file(data);
    let bytes = read(&path)?.ok_or_else(|| IdentityError::Damaged(path.clone()))?;
    let stored = proto::wire::decode::<Statements>(&bytes, usize::MAX);
    stored.map(drop).map_err(|_| IdentityError::Damaged(path))
}

/// Makes the directory belong to a mesh.
pub(crate) fn adopt(
    data: &Path,
    mesh: MeshId,
    seed: Seed,
    statements: Vec<Sealed>,
    now: Timestamp,
) -> Result<Identity, IdentityError> {
    let identity = Identity { data: data.to_owned(), mesh, seed, root: Arc::default() };
    store(&identity, statements, now)?;
    Ok(identity)
}

/// The statements first, the mesh's id last, because the latter is what [`exists`] looks at.
fn store(identity: &Identity, statements: Vec<Sealed>, now: Timestamp) -> Result<(), IdentityError> {
    let (data, mesh) = (&identity.data, identity.mesh);
    let mut set = MemberSet::new(mesh);
    set.apply_all(statements, now);
    make_dirs(data)?;
    write(&statements_file(data), &proto::wire::encode(&Statements::of(&set.all())))?;
    write(&mesh_file(data), format!("{mesh}\n").as_bytes())?;
    // Mostly there is none; a secret that stays is of a token that expires.
    std::fs::remove_file(pending_file(data)).ok();
    Ok(())
}

/// What a directory is in its mesh, as its statements tell.
#[derive(Clone, Debug)]
pub struct Place {
    /// The mesh.
    pub mesh: MeshId,
    /// Its label.
    pub mesh_name: String,
    /// The host.
    pub host: HostId,
    /// Its label.
    pub name: String,
    /// Why it is a member no more, if so.
    pub out: Option<Out>,
}

/// Reads what a directory is in its mesh.
pub fn place(data: &Path, now: Timestamp) -> Result<Place, IdentityError> {
    let identity = load(data)?;
    let (set, host) = (statements(&identity, now)?, identity.host());
    let words = |name: Option<&Name>| name.map_or_else(|| "?".to_owned(), Name::to_string);
    let (mesh_name, name) = (words(set.name()), words(set.label(host).as_ref()));
    Ok(Place { mesh: identity.mesh, mesh_name, host, name, out: set.departed(&host) })
}

/// Puts everything that a directory has of its mesh aside, for another one to take its place. Gives where it is. Done
/// again, it goes on where it stopped.
pub fn put_aside(data: &Path, now: Timestamp) -> Result<PathBuf, IdentityError> {
    let aside = data.join(format!("left-{}", now.0 / 1000));
    disk::private_dir(&aside).map_err(|source| IdentityError::File { path: aside.clone(), source })?;
    // The identity goes last: as long as it is there, the directory is one of the old mesh.
    for part in ["sessions", "published", "forward.json", "mesh", "identity"] {
        let (from, to) = (data.join(part), aside.join(part));
        match std::fs::rename(&from, &to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IdentityError::File { path: from, source });
            }
            _ => {}
        }
    }
    Ok(aside)
}

/// Reads the stored statements. What is not accepted any more is left out.
fn statements(identity: &Identity, now: Timestamp) -> Result<MemberSet, IdentityError> {
    let path = statements_file(&identity.data);
    let bytes = read(&path)?.ok_or_else(|| IdentityError::Damaged(path.clone()))?;
    let damaged = || IdentityError::Damaged(path.clone());
    let stored = proto::wire::decode::<Statements>(&bytes, usize::MAX).map_err(|_| damaged())?;
    let mut set = MemberSet::new(identity.mesh);
    set.apply_all(stored.unpack().map_err(|_| damaged())?, now);
    Ok(set)
}

/// Gives the host's key, made at the first call: a join that is tried again comes from the same host.
pub(crate) fn host_seed(data: &Path) -> Result<Seed, IdentityError> {
    make_dirs(data)?;
    if let Some(seed) = key(&host_file(data))? {
        return Ok(seed);
    }
    let seed = Seed(rand::random());
    write(&host_file(data), &seed.0)?;
    Ok(seed)
}

/// Gives token and wished name of a join that waits for an issuer.
pub fn pending(data: &Path) -> Option<(String, Name)> {
    let text = String::from_utf8(disk::read(&pending_file(data)).ok()??).ok()?;
    let (token, name) = text.trim().split_once(' ')?;
    Some((token.to_owned(), name.parse().ok()?))
}

/// Remembers token and wished name of a join that is not done yet.
pub fn set_pending(data: &Path, token: &str, name: &Name) -> Result<(), IdentityError> {
    write(&pending_file(data), format!("{} {name}\n", token.trim()).as_bytes())
}

/// Forgets a join that was refused.
pub fn forget_pending(data: &Path) {
    std::fs::remove_file(pending_file(data)).ok();
}

/// Converts a libp2p peer id, which holds the key itself.
pub(crate) fn host_of(peer: &PeerId) -> Option<HostId> {
    let bytes = peer.to_bytes();
    let [0, _, key @ ..] = bytes.as_slice() else { return None }; // 0 = identity multihash
    let key = libp2p::identity::PublicKey::try_decode_protobuf(key).ok()?.try_into_ed25519().ok()?;
    Some(HostId(key.to_bytes()))
}

/// Converts to libp2p's spelling; `None` when the id is no key.
pub(crate) fn peer_of(host: &HostId) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&host.0).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// Converts iroh's spelling, which is always a key, to libp2p's.
pub(crate) fn peer_of_endpoint(id: &EndpointId) -> PeerId {
    peer_of(&host_of_endpoint(id)).expect("an endpoint id is a valid ed25519 key")
}

/// Converts iroh's spelling.
pub fn host_of_endpoint(id: &EndpointId) -> HostId {
    HostId(*id.as_bytes())
}

/// Converts to iroh's spelling; `None` when the id is no key.
pub fn endpoint_id(host: &HostId) -> Option<EndpointId> {
    EndpointId::from_bytes(&host.0).ok()
}

fn host_file(data: &Path) -> PathBuf {
    data.join("identity/host.key")
}

fn root_file(data: &Path) -> PathBuf {
    data.join("identity/root.key")
}

fn mesh_file(data: &Path) -> PathBuf {
    data.join("identity/mesh")
}

fn pending_file(data: &Path) -> PathBuf {
    data.join("identity/pending")
}

pub(crate) fn statements_file(data: &Path) -> PathBuf {
    data.join("mesh/statements")
}

fn make_dirs(data: &Path) -> Result<(), IdentityError> {
    for dir in ["identity", "mesh"] {
        let path = data.join(dir);
        disk::private_dir(&path).map_err(|source| IdentityError::File { path, source })?;
    }
    Ok(())
}

fn key(path: &Path) -> Result<Option<Seed>, IdentityError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let seed = bytes.try_into().map_err(|_| IdentityError::Damaged(path.to_owned()))?;
    Ok(Some(Seed(seed)))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    disk::read(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    disk::replace(path, bytes).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_host_in_all_spellings() {
        let host = HostId(Seed([7; 32]).public());
        let endpoint = endpoint_id(&host).unwrap();
        assert_eq!(host_of_endpoint(&endpoint), host);
        assert_eq!(host_of(&peer_of(&host).unwrap()), Some(host));
        assert_eq!(peer_of_endpoint(&endpoint), peer_of(&host).unwrap());
    }

    #[test]
    fn a_mesh_of_its_root_key_is_the_same_mesh_and_its_new_name_the_older_one() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let founding = |name: &str, mesh: &str| Founding {
            name: name.parse().unwrap(),
            mesh_name: mesh.parse().unwrap(),
            tags: BTreeMap::new(),
        };
        let (one, phrase) = create(first.path(), founding("attic", "home"), Timestamp(1)).unwrap();
        let root = phrase::root(&phrase).unwrap();
        let prepared = prepare_again(root, second.path(), founding("shed", "garden"), Timestamp(2)).unwrap();
        let two = prepared.commit().unwrap();
        assert_eq!((two.mesh, two.holds_root()), (one.mesh, true));
        assert_ne!(one.host(), two.host());
        assert!(load(second.path()).unwrap().holds_root());
        let set = statements(&two, Timestamp(3)).unwrap();
        assert!(set.is_issuer(two.host()) && set.name().unwrap().as_str() == "garden");
        let mut all = statements(&one, Timestamp(3)).unwrap();
        all.apply_all(set.all(), Timestamp(3));
        assert!(all.name().unwrap().as_str() == "home" && all.is_issuer(two.host()));
    }

    #[test]
    fn a_file_that_is_cut_short_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let founding = Founding {
            name: "attic".parse().unwrap(),
            mesh_name: "home".parse().unwrap(),
            tags: BTreeMap::new(),
        };
        create(dir.path(), founding, Timestamp(1)).unwrap();
        check(dir.path()).unwrap();
        for file in [mesh_file, host_file, root_file, statements_file] {
            let path = file(dir.path());
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            assert!(
                matches!(check(dir.path()), Err(IdentityError::Damaged(named)) if named == path),
                "{path:?}"
            );
            std::fs::write(&path, whole).unwrap();
        }
        check(dir.path()).unwrap();
    }

    #[test]
    fn a_mesh_that_is_only_prepared_does_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let founding = Founding {
            name: "attic".parse().unwrap(),
            mesh_name: "home".parse().unwrap(),
            tags: BTreeMap::new(),
        };
        let dropped = prepare(dir.path(), founding.clone(), Timestamp(1)).unwrap();
        assert!(!exists(dir.path()) && !root_file(dir.path()).exists());
        let prepared = prepare(dir.path(), founding, Timestamp(2)).unwrap();
        assert_ne!(prepared.recovery(), dropped.recovery());
        let mesh = prepared.identity().mesh;
        assert_eq!(prepared.commit().unwrap().mesh, mesh);
        assert!(load(dir.path()).unwrap().holds_root());
    }

    #[test]
    fn an_identity_is_read_back_and_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(IdentityError::Missing)));
        let founding = Founding {
            name: "attic".parse().unwrap(),
            mesh_name: "home".parse().unwrap(),
            tags: BTreeMap::new(),
        };
        let (made, _) = create(dir.path(), founding.clone(), Timestamp(1)).unwrap();
        let read = load(dir.path()).unwrap();
        assert_eq!((read.host(), read.mesh, read.holds_root()), (made.host(), made.mesh, true));
        assert!(matches!(create(dir.path(), founding, Timestamp(2)), Err(IdentityError::Exists)));
    }
}
