//! Plans as people see them: laid out beforehand, their commands run, what was done told.

use std::path::Path;

use super::{Cx, Done, error::Exit};
use crate::install::{
    carry::{self, CarryError, Root},
    plan::{Command, Plan},
};

/// Runs commands and gives the lines of those that succeeded. Below another root none is run.
pub fn run(cx: &Cx, root: &Root, commands: &[Command]) -> Result<Vec<String>, CarryError> {
    let mut ran = Vec::new();
    for command in commands.iter().filter(|_| root.0.is_none()) {
        match carry::run(command)? {
            None => ran.push(command.line()),
            Some(failed) => cx.ui.say(&failed),
        }
    }
    Ok(ran)
}

/// Shows what was done, and what a person does next.
pub fn told(cx: &Cx, plan: &Plan, done: &str) -> Done {
    cx.ui.show(plan, |_, _| done.to_owned());
    for line in &plan.say {
        cx.ui.say(line);
    }
    Ok(Exit::WELL)
}

/// Lays a plan out as what a person would do by hand. Long texts of ours that nobody edits are told by their size.
pub fn in_words(plan: &Plan) -> String {
    let mut lines = Vec::new();
    let run = |command: &Command| format!("run    {}", command.line());
    lines.extend(plan.first.iter().map(run));
    for file in &plan.write {
        let head = format!("write  {} {:04o}", file.path.display(), file.mode);
        match &file.text {
            None => lines.push(format!("{head}  this program")),
            Some(text) if is_page(&file.path) => lines.push(format!("{head}  {} bytes", text.len())),
            Some(text) => {
                lines.push(head);
                lines.extend(text.lines().map(|line| format!("    {line}")));
            }
        }
    }
    lines.extend(plan.remove.iter().map(|path| format!("remove {}", path.display())));
    lines.extend(plan.run.iter().map(run));
    lines.extend(plan.say.iter().map(|line| format!("say    {line}")));
    lines.join("\n")
}

fn is_page(path: &Path) -> bool {
    ["man1", "completions", "site-functions", "vendor_completions.d", "vendor-completions"]
        .iter()
        .any(|dir| path.parent().is_some_and(|parent| parent.ends_with(dir)))
}
