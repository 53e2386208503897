//! The terminal, which a command in a process group of its own may read only while it is lent to it.

use std::{
    fs::File,
    io::{IsTerminal, stdin, stdout},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::{
    process::{Pid, getpgrp},
    termios::{tcgetpgrp, tcsetpgrp},
};

use crate::exit::{Exit, Failure, Result};

/// A terminal that is lent to a command.
pub struct Lent {
    own: Pid,
    to: Pid,
}

impl Lent {
    /// Lends it, if this is what the person at the terminal has called: not one of several in a pipe, which may need
    /// it too.
    #[must_use]
    pub fn to(group: Pid) -> Option<Self> {
        if !(stdin().is_terminal() && stdout().is_terminal()) {
            return None;
        }
        let (own, terminal) = (getpgrp(), File::open("/dev/tty").ok()?);
        let foreground = tcgetpgrp(&terminal).is_ok_and(|foreground| foreground == own);
        (foreground && tcsetpgrp(&terminal, group).is_ok()).then_some(Self { own, to: group })
    }

    /// Takes it back, before the command is reaped. The kernel stops who does that from the background, so a helper in the
    /// command's group does it.
    pub fn take_back(self) {
        let mut helper = Command::new("/proc/self/exe");
        helper.arg("__foreground").arg(self.own.to_string());
        helper.process_group(self.to.as_raw_nonzero().get()).stdin(Stdio::null());
        // At the worst the shell does it.
        let _ = helper.status();
    }
}

/// What the helper does.
///
/// # Errors
/// When there is no terminal any more.
pub fn take_back(group: i32) -> Result {
    let taken = Pid::from_raw(group).and_then(|group| tcsetpgrp(File::open("/dev/tty").ok()?, group).ok());
    taken.map(|()| Exit::Ok).ok_or_else(|| Failure::error("the terminal cannot be taken back"))
}
