//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod bad_input;
mod coordinator;
mod ctrl_c;
mod debian;
mod disk_trouble;
mod down_away;
mod hard_times;
mod join;
mod kills;
mod lab_session;
mod one_host;
mod partition;
mod restarts;
mod setup;
mod tidy;
