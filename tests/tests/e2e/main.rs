//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod bad_input;
mod coordinator;
mod ctrl_c;
mod debian;
mod disk_full;
mod down_away;
mod enter;
mod join;
mod kills;
mod lab_session;
mod one_host;
mod partition;
mod restarts;
mod setup;
mod stdout;
mod tidy;
mod unseen;
