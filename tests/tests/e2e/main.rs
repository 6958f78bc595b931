//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod addresses;
mod bad_input;
mod clock;
mod coordinator;
mod ctrl_c;
mod debian;
mod disk_full;
mod disk_trouble;
mod disks;
mod down_away;
mod endings;
mod enter;
mod hard_times;
mod join;
mod kills;
mod lab_session;
mod leaks;
mod one_host;
mod partition;
mod prefixes;
mod restarts;
mod setup;
mod soak;
mod stdout;
mod tidy;
mod unseen;
