//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod kills;
mod one_host;
mod tidy;
