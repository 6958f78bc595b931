//! The stories, one a file. Each starts real agents and, where it says machines, real guests.

mod tidy;
