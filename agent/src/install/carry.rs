//! Writes and removes what a plan says, and runs its commands. A file of somebody else is never written over, and one
//! that was changed since is never removed; what was written is recorded before it is.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::Serialize;

use super::{
    Scope,
    plan::{self, Command, Plan, Record},
};

/// How long a record may be: a hundred files.
const RECORD_MAX: u64 = 1024 * 1024;

/// Why the work ended early.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Files that are not ours, or not as we wrote them, lie where ours belong.
    #[error("{0} is not as this program wrote it")]
    Foreign(String),
    /// A file could not be written or removed.
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    /// A command could not be run, or said no.
    #[error("{0} failed: {1}")]
    Command(String, String),
}

/// Where the root of all paths is: another directory when a package or a test is made.
#[derive(Clone, Debug)]
pub struct Root(pub Option<PathBuf>);

impl Root {
    /// Gives where a path really is.
    pub fn at(&self, path: &Path) -> PathBuf {
        match &self.0 {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }
}

/// Reads what was installed, if something was.
pub fn record(root: &Root, path: Option<&Path>) -> Option<Record> {
    let mut text = Vec::new();
    File::open(root.at(path?)).ok()?.take(RECORD_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Names the files of a plan that lie there, are not ours, and are not what would be written. The program's own place
/// is no question: whatever agent is there is what is replaced.
pub fn foreign(plan: &Plan, root: &Root, before: Option<&Record>) -> Vec<PathBuf> {
    let is_foreign = |file: &&plan::File| {
        let Some(text) = &file.text else { return false };
        let Ok(there) = fs::read(root.at(&file.path)) else { return false };
        let hash = blake3::hash(&there).to_hex();
        let ours = before.is_some_and(|before| {
            before.files.iter().any(|(path, written)| *path == file.path && *written == *hash)
        });
        !ours && there != text.as_bytes()
    };
    plan.write.iter().filter(is_foreign).map(|file| file.path.clone()).collect()
}

/// Writes the files of a plan and gives what there is to remove one day; `program` is the agent's own file.
pub fn write(
    plan: &Plan,
    root: &Root,
    (program, scope): (&Path, Scope),
    (at, before): (Option<&Path>, Option<Record>),
) -> Result<Record, CarryError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| CarryError::File(path, error)
    };
    let new = Record { scope, files: Vec::new(), made: Vec::new(), linger: false, names: None };
    let mut record = before.unwrap_or(new);
    for file in &plan.write {
        let hash = hash(file, program).map_err(failed(&file.path))?;
        record.files.retain(|(path, _)| *path != file.path);
        record.files.push((file.path.clone(), hash));
    }
    let parents = plan.write.iter().map(|file| file.path.as_path()).chain(at).filter_map(Path::parent);
    let missing: Vec<PathBuf> = parents.flat_map(|dir| missing(root, dir)).collect();
    record.made.extend(missing);
    // The inner ones first, so that they are removed in this order.
    record.made.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    record.made.dedup();
    if let Some(at) = at {
        keep(root, at, &record).map_err(failed(at))?;
    }
    for file in &plan.write {
        let place = root.at(&file.path);
        let written = match &file.text {
            Some(text) => put(&place, &mut text.as_bytes(), file.mode),
            None if same(&place, program) => Ok(()),
            None => File::open(program).and_then(|mut from| put(&place, &mut from, file.mode)),
        };
        written.map_err(failed(&file.path))?;
    }
    Ok(record)
}

/// Writes down what was installed.
pub fn keep(root: &Root, at: &Path, record: &Record) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    put(&root.at(at), &mut &text[..], 0o644)
}

fn hash(file: &plan::File, program: &Path) -> io::Result<String> {
    let hash = match &file.text {
        Some(text) => blake3::hash(text.as_bytes()),
        None => {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(program)?)?;
            hasher.finalize()
        }
    };
    Ok(hash.to_hex().to_string())
}

/// Lists the directories that a path lacks, the inner ones first.
fn missing(root: &Root, dir: &Path) -> Vec<PathBuf> {
    let inside = dir.ancestors().filter(|dir| dir.parent().is_some());
    inside.take_while(|dir| !root.at(dir).exists()).map(Path::to_owned).collect()
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// Writes a file so that either the old or the new one is there, whole, also for who runs it meanwhile.
pub fn put(path: &Path, from: &mut dyn Read, mode: u32) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let written = stage(&staged, from, mode).and_then(|()| fs::rename(&staged, path));
    if written.is_err() {
        fs::remove_file(&staged).ok();
    }
    written.and_then(|()| File::open(parent)?.sync_all())
}

fn stage(staged: &Path, from: &mut dyn Read, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(staged)?;
    io::copy(from, &mut file)?;
    // Whatever the user's mask took away.
    fs::set_permissions(staged, Permissions::from_mode(mode))?;
    file.flush()?;
    file.sync_all()
}

/// What was removed, and what stayed because it is not as it was written.
#[derive(Debug, Default)]
pub struct Removed {
    /// How many files went.
    pub files: usize,
    /// Those that stayed.
    pub changed: Vec<PathBuf>,
}

/// How a file is that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// As it was written.
    Written,
    /// Otherwise: somebody has changed it since.
    Changed,
    /// It is not there any more.
    Gone,
}

/// Tells how a file of a record is now.
pub fn standing(root: &Root, path: &Path, written: &str) -> io::Result<Standing> {
    let found = File::open(root.at(path)).and_then(|file| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map(|hasher| hasher.finalize().to_hex().to_string())
    });
    match found {
        Ok(found) if found == written => Ok(Standing::Written),
        Ok(_) => Ok(Standing::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Standing::Gone),
        Err(error) => Err(error),
    }
}

/// Removes what a record names and nothing else, and directories that were made for it once they are empty.
pub fn remove(root: &Root, at: Option<&Path>, record: &Record) -> Result<Removed, CarryError> {
    let mut removed = Removed::default();
    for (path, written) in &record.files {
        let failed = |error| CarryError::File(path.clone(), error);
        match standing(root, path, written).map_err(failed)? {
            Standing::Written => {
                fs::remove_file(root.at(path)).map_err(failed)?;
                removed.files += 1;
            }
            Standing::Changed => removed.changed.push(path.clone()),
            Standing::Gone => {}
        }
    }
    if let Some(at) = at {
        fs::remove_file(root.at(at)).map_err(|error| CarryError::File(at.to_owned(), error))?;
    }
    for dir in &record.made {
        // Others may have put something there meanwhile.
        fs::remove_dir(root.at(dir)).ok();
    }
    Ok(removed)
}

/// Runs a command. Gives what is told when it failed and is not needed.
pub fn run(command: &Command) -> Result<Option<String>, CarryError> {
    let Some((program, arguments)) = command.words.split_first() else { return Ok(None) };
    let mut run = std::process::Command::new(program);
    run.args(arguments).envs(command.variable.clone()).stdin(Stdio::null());
    let because = match run.output() {
        Ok(output) if output.status.success() => return Ok(None),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    match &command.otherwise {
        Some(otherwise) => Ok(Some(format!("{} failed: {because}; {otherwise}", command.line()))),
        None => Err(CarryError::Command(command.line(), because)),
    }
}
