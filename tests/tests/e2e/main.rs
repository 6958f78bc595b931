//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod addresses;
mod bad_input;
mod clock;
mod coordinator;
mod ctrl_c;
mod debian;
mod down_away;
mod join;
mod kills;
mod lab_session;
mod one_host;
mod partition;
mod restarts;
mod setup;
mod tidy;
