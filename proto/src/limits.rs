//! Every bound of the system, each with its reason. A queue, retry, size or wait that is not here
//! is local to one function and says its reason there.

/// Services that one host publishes: their names fit its record, and each takes a port on every other host.
pub const MAX_PUBLISHED: usize = 16;
/// Sessions on one host: each has tasks, a directory, at most one Raft log and two gossip records.
pub const MAX_SESSIONS: usize = 100;
/// Machines in one session. A share with all of them must stay far below [`MAX_RPC_BYTES`].
pub const MAX_MACHINES: usize = 500;
/// Groups in one topology: one address of the session's /24 at least for each, with room to grow.
pub const MAX_GROUPS: usize = 100;
/// Machines of one group.
pub const MAX_COUNT: u32 = 200;
/// Wished disk per free disk of a host: disks are sparse, and few guests fill theirs.
pub const DISK_OVERCOMMIT: u64 = 4;
/// Least memory of a machine: below it the boot loaders of common guests stop without a word. (The tiny
/// guest boots from 96 MiB on.)
pub const MIN_MEMORY_MIB: u64 = 64;
/// Largest disk of a machine, 64 TiB: beyond this guests' file systems and qcow2 begin to differ.
pub const MAX_DISK_MIB: u64 = 64 << 20;
/// Bytes of a topology file. Ten times the largest a person would write by hand.
pub const MAX_TOPOLOGY_BYTES: usize = 256 * 1024;
/// Bytes of one file that a topology injects (DESIGN section 13).
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// Bytes of all injected files of one topology together: it is stored on every voter and in memory.
pub const MAX_FILES_BYTES: usize = 4 * 1024 * 1024;
/// Files of one topology.
pub const MAX_FILES: usize = 1_000;
/// Bytes of file contents in one entry of a session's log: it is copied to every voter within one time-out.
pub const MAX_KEEP_BYTES: usize = 512 * 1024;
/// Bytes of file contents in the hard state: those of the newest topology and of one that is being written.
pub const MAX_KEPT_BYTES: usize = 2 * MAX_FILES_BYTES;
/// Bytes of a piece of a file's content that one member sends another: seconds on a slow uplink.
pub const MAX_PIECE_BYTES: usize = 64 * 1024;
/// Reasons against hosts that one proposal tells: it must stay one message also for the most machines on the most hosts.
pub const MAX_REASONS: usize = 4_000;
/// Reasons against hosts that a machine which fits nowhere tells in any case.
pub const MIN_REASONS_EACH: usize = 3;
/// Lines of `setup`, files, variables and keys of all machines together: a share with all of them has a message's
/// parts.
pub const MAX_TEXTS: usize = 10_000;
/// Bytes of `setup`, `env` and keys of all machines together: one host's share may hold all of them.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one RPC request or answer: an intent with all its files, and some room.
pub const MAX_RPC_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one Raft message. A snapshot holds the whole state of a session.
pub const MAX_RAFT_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of one gossip frame before decompression: the UDP ceiling that the codec was made for.
pub const MAX_GOSSIP_BYTES: usize = 65_507;
/// Bytes of one signed gossip record, encoded. Records above 1 KiB starve their neighbours in a
/// delta, so anything larger is fetched by RPC instead.
pub const MAX_RECORD_BYTES: usize = 4096;
/// Machines that one gossip record reports: those with the longest names leave some room for reasons.
pub const MAX_REPORTS_PER_RECORD: usize = 32;
/// Image names that a host says it knows: with those, [`MAX_ENDS_TOLD`] and [`MAX_SESSIONS`], what it has seen fits
/// one record.
pub const MAX_NAMES_TOLD: usize = 24;
/// Ends of sessions that a host says it knows.
pub const MAX_ENDS_TOLD: usize = 64;
/// Records of one host in gossip.
pub const MAX_RECORDS_PER_HOST: usize = 256;
/// Bytes of one message on the join protocol, which strangers may speak.
pub const MAX_JOIN_BYTES: usize = 64 * 1024;
/// Bytes of one sealed statement.
pub const MAX_STATEMENT_BYTES: usize = 4096;

/// Bytes of a mandate: the groups and machines of the largest session, twice over.
pub const MAX_MANDATE_BYTES: usize = 256 * 1024;
/// Statements one host keeps.
pub const MAX_STATEMENTS: usize = 10_000;
/// Bytes of a request body on the local API: an intent with its files, as JSON.
pub const MAX_API_BYTES: usize = 16 * 1024 * 1024;
/// Facts kept in memory for `agent events --since`.
pub const MAX_FACTS: usize = 10_000;
/// Bytes of a guest's packet: the MTU that the session network gives (DESIGN section 9).
pub const GUEST_MTU: usize = 1280;
/// Bytes of a DNS answer to a guest by datagram: its MTU without the headers of IPv6 and UDP, as resolvers agreed on.
pub const GUEST_DNS_BYTES: usize = GUEST_MTU - 48;
/// Bytes of console output that a shim keeps.
pub const CONSOLE_BYTES: usize = 1024 * 1024;
/// Hosts in one mesh that this version is built for; gossip digests grow with it.
pub const MAX_MEMBERS: usize = 500;
/// How long a voter may be silent before another host takes its place: longer than a reboot or an
/// upgrade, because each change of voters copies the log.
pub const VOTER_SILENT_MS: u64 = 10 * 60 * 1000;
/// Pause before a machine's next try after its first failure; it doubles with each.
pub const BACK_OFF_FIRST_MS: u64 = 1000;
/// Longest pause between two tries: a user who repaired something waits no longer than this.
pub const BACK_OFF_LAST_MS: u64 = 60_000;
/// Longest pause before the coordinator is asked again: an election takes about as long.
pub const ASK_AGAIN_MS: u64 = 4_000;
/// A run of this length forgets the failures before it.
pub const STEADY_AFTER_MS: u64 = 10 * 60 * 1000;
/// Failures in a row after which a machine is shown as failed, although tries go on.
pub const FAILING_AFTER: u32 = 5;
/// Pause between two looks for a machine's process that lives and does not answer.
pub const FIND_AGAIN_MS: u64 = 2_000;
/// How long such a process may be silent before it is ended: longer than a host that swaps needs.
pub const UNSEEN_WITHIN_MS: u64 = 5 * 60_000;
/// How long a shim may take to bring QEMU up; a cold disk under load takes half of it.
pub const START_WITHIN_MS: u64 = 120_000;
